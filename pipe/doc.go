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
// What is above this package sees only [Inbox], [Cursor] and [Outbox].
//
// # Exactness
//
// With a [Control] a log is a file in memory, and the moves of a sealed end are
// exact: whatever instant the process is killed at, whoever has the descriptors
// finds every direction again by [Recover], with nothing lost, doubled or torn.
// The kernel keeps the counters for it inside the descriptors:
//
//	from a socket  peek (SO_PEEK_OFF), commit, consume: the peek offset says what
//	               of the committed bytes is still to be taken out
//	from a pipe    splice: bytes and the log's file position move in one call
//	into either    sendfile: the same, the other way round
//
// Each log has one committed word, a byte offset; message numbers follow from the
// bytes. Before space is released a checkpoint keeps the place that the remaining
// bytes begin at. On a shared end other holders move the same counters, so there
// the moves are plain reads and writes, as they are without a Control, where logs
// are memory of this process alone. [SelfTest] tries out whether the kernel can
// do all that.
//
// Whoever comes after a kill needs the descriptors. A [Vault] keeps copies of them
// from before anything can happen with them until before they are closed, so that
// no copy holds an end of file up. What has to outlive the process beside bytes and
// places goes into the control file's [Journal].
//
// # Concurrency
//
// All exported methods may be called concurrently, except that a [Cursor]
// belongs to one goroutine at a time. An endpoint owns the goroutines that fill
// and drain it and joins them in [Endpoint.Close] or when it has handed over
// what it had accepted.
package pipe
