// Package session is what clients name, list and delete: sessions with their
// pipes, and the processes that hold their ends. It knows nothing of gRPC.
//
// A [Registry] holds the sessions of one daemon. A [Session] has pipes; a pipe
// has two [Endpoint]s, which the daemon holds until they are handed over to a
// process or closed. Clients write through a [Writer] (one at a time, with a
// sequence that makes repeats harmless) and read through a [Reader]: one
// consumer, whose acknowledgements free what it has had, and any number of
// observers. A cut connection closes neither the session nor a message: the next
// consumer starts at the first message that was not acknowledged, and a writer
// that returns under its id goes on where its sequence stands.
//
// The right to write, and the right to consume, is a lease: a stream takes or
// joins it, holds it while it is open, and keeps it for a while when it is cut;
// [Endpoint.AcquireLease] has it without a stream. Every change of the holder is
// told to the loser, and what is appended or acknowledged is checked against the
// lease under the same lock that appends or acknowledges it.
//
// A [Process] is one incarnation: when it has exited, its policy or a client may have
// the next one started, with pipes of its own, in its place. Earlier ones are kept
// for a while.
//
// A session has ended when its processes have exited, none is started again, and
// nothing can flow any more. It is kept, with exits, finals and unread output, until it is deleted or
// expires. A [Watcher] tells what happens to sessions, from a log of the latest
// events.
//
// All exported methods may be called concurrently, except those of Writer,
// Reader and Watcher, of which each belongs to one goroutine unless it says otherwise.
package session
