// Package pipe is the kernel side of piped: pipes made of real kernel objects,
// the endpoints the daemon holds, the framings that cut messages out of their
// bytes, and the two logs each endpoint has.
//
// # Pipes and endpoints
//
// [Open] makes a pipe: a stream socket pair (duplex), a kernel pipe (one-way) or
// two kernel pipes (stdio). Both ends are born close-on-exec. An [Endpoint] is
// the daemon's own copy of one end; copies in other processes are other holders
// of the same end, and end of file comes when the last of them is gone.
//
// An end is either sealed or shared. A sealed end is never given to a process:
// its description is non-blocking, lives in Go's poller and is read ahead. A
// shared end may be inherited at any time, so its description stays blocking
// (O_NONBLOCK belongs to the description, which a child's copy shares), it is
// watched by a [Poller] of our own, and it is read only while somebody waits
// for a message, one message at a time: the bytes are looked at first (MSG_PEEK,
// tee), so that what follows the message stays in the kernel for other holders.
//
// # Directions
//
// A direction is one log: file offset is stream offset, the log holds the very
// bytes of the pipe, framing included. Message numbers are a pure function of
// those bytes, so whoever reads them again numbers them the same. A direction
// has five moves:
//
//	fill     descriptor → log            [Inbox]
//	drain    log → descriptor            [Outbox]
//	commit   what was filled or appended becomes visible, at one offset
//	release  space below what everyone has had is given back, in whole pages
//	recover  find a place in the stream again, from a place before it and the bytes
//
// Logs live in memory and the moves are plain reads and writes. What is above
// this package sees only [Inbox], [Cursor] and [Outbox].
//
// # Concurrency
//
// All exported methods may be called concurrently, except that a [Cursor]
// belongs to one goroutine at a time. An endpoint owns the goroutines that fill
// and drain it and joins them in [Endpoint.Close] or when it has handed over
// what it had accepted.
package pipe
