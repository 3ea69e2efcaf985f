// Package processes proves that processes are started, watched and ended right:
// what a child may do, what the machine may refuse, and that nothing is left.
//
// As in package exact each row plays one kind of fault against a real daemon and
// real children, and prints one line of key=value. The children are
// testdata/child.c, because a child in Go could neither exit at once nor be as
// hostile. After each row the daemon and its keeper must have given back what the
// sessions had: the counts that begin with left are 0.
//
// PROCESSES=long runs every row in full; anything else is the short form, which
// goes through the same code in fewer rounds.
package processes
