// Package failpoint names the instants at which a process may be killed, so that
// tests can kill it at each of them. Only a build with the tag failpoints does
// anything at them.
//
// # Arming
//
// FAILPOINT=NAME=ACTION@N in the environment makes a process act when it comes to
// NAME for the Nth time; without @N the first time. The actions are
//
//	kill   the process sends itself SIGKILL
//	panic  the goroutine panics
//	hang   the goroutine stops there for good
//
// FAILPOINT_LIST=FILE is for a program that is started over and over: each process
// takes the first line of FILE that is for it, of the same form, out of the file.
// A line that begins with "PROGRAM:" is for processes of that program only. Before
// it acts, a process adds the name as a line to FILE.hit.
package failpoint
