// Package system tests the whole system from outside: the real daemon in a
// process of its own, real gRPC over its unix socket, and real children. What
// one package alone promises is tested beside that package; here is what shows
// only end to end.
//
// PIPED_LONG_TESTS=1 adds what takes minutes: as many sessions as the
// machine's own descriptor limit allows.
package system
