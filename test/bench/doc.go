// Package bench measures piped beside what its speed is bounded by, in the same
// run: on one machine the ratios are steady, the times are not. Each round
// measures every member once, in turning order; a ratio is taken inside a
// round, and the median over the rounds is reported.
//
//	make bench                            all rows
//	go test -v -run RoundTrip ./test/bench   one short round
//
// The rows:
//
//	round trip 64 B   client → gRPC → daemon → socketpair → child echo and back,
//	                  beside a bare grpc-go echo and a bare socketpair echo, each
//	                  with the other side in a process of its own
//	exactness         the same way with logs in kernel objects and exact moves,
//	                  beside logs in the daemon's memory and plain moves: round
//	                  trip of 64 B, messages of 64 B a second, bytes a second in
//	                  messages of 64 KiB, both ways at once
//	spawn             create a session, first byte of its child, delete it: the time
//	                  to that byte, and the CPU time of daemon, keeper and spawner;
//	                  beside posix_spawn in C and subprocess in Python, which start
//	                  the same program with nobody between
//	keeper            how often the keeper is woken by round trips: never
package bench
