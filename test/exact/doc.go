// Package exact proves that nothing is lost and nothing doubled.
//
// Each row makes one kind of fault happen to a real daemon, real clients and
// real children, again and again. Every message says which session, pipe,
// direction and writer it belongs to, which number it has, and a checksum over
// all of it. Children keep what they got in a file, clients keep what was
// acknowledged and what they received, and one checker compares: see [verdict].
// It prints one line per row
//
//	C2 sent= acked= delivered= received= lost= duplicated= reordered= torn= phantom= unexplained_gaps= max_pause_ms= p50/p99/p999_us=
//
// with what else the row has counted behind it, and fails unless the six that
// count faults are 0. After each row the daemon must have given back what the
// sessions had.
//
// EXACT=long runs every row in full and prints; anything else is the short form,
// which goes through the same code in fewer rounds.
package exact
