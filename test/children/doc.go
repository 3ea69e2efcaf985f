// Package children proves what is told of children that end anywhere, of a system
// that refuses things, and of many starts: the real daemon, its keeper and spawner,
// and a child in C that does exactly what it is told.
//
// The rows, each a line of figures that is printed:
//
//	P1   children that end in the middle of a frame, with input unread, with output
//	     unread, by a code or a signal: what is told of each of them is right
//	P2   what a child does with its descriptors (closes, duplicates, opens again, shuts)
//	     is told, as what it is, and the other directions go on
//	P3   a descendant that holds a pipe after the exit is named, and holds up nothing
//	     else
//	R1   the kernel refuses descriptors, processes, memory or room in a file, to the
//	     daemon, the keeper or the spawner: the error has a name, sessions that are
//	     there go on, what was accepted waits, and nothing is left of the attempt
//	S1   many starts: no zombie, no signal for somebody else, flat memory
//
// CHAOS=long does more of P1, P2, P3 and S1; SPAWNS says of how many starts S1 is.
package children
