// Package client speaks to piped, the daemon that owns child processes and the
// message pipes to them.
//
// # Addresses
//
// [Dial] takes unix:///PATH. [FindAddress] looks where pipectl looks: an explicit
// address, PIPED_ADDR, the user's own daemon, the machine's daemon. There is no
// TLS yet; a daemon of another machine is reached by forwarding its socket with
// ssh -L.
//
// # Sessions
//
// A session is a set of pipes and the processes that hold their ends. [Client]
// creates, starts, inspects, signals, waits for and deletes them. A lost
// connection changes nothing about them, and where the daemon has a keeper, nor
// does the death of the daemon ([Client.Info], SurvivesDaemonDeath).
//
// # Messages
//
// [Client.Endpoint] names one end of a pipe. A [Writer] sends messages into it
// and a [Reader] receives them from it; both keep message boundaries, and both
// are streams that may carry millions of messages. Small messages that are sent
// while the stream is busy travel together. Messages above the daemon's part size
// (256 KiB) travel in parts, so that none has to fit into memory anywhere:
// [Writer.SendReader] and [Reader.NextPart].
//
// # What is certain
//
// [Writer.Flush] and [Writer.Close] return when the daemon has everything that
// was sent. What a Reader received belongs to it only when it says so with
// [Reader.Ack]; until then the daemon keeps it, and gives it to the next consumer.
// [Reader.Close] returns when the last acknowledgement is certain. io.EOF from
// [Reader.Next] means that everything up to the true end of the direction was
// received, in order and once; when something is missing, the error says what: a
// *[GapError] or an *[IncompleteError]. [Client.Verify] compares with the last words
// that come with the exit of a process.
//
// # When the connection is lost
//
// It is found within 31 s, whatever became of it, and made again, with pauses of
// 10 ms to 1 s, also over the end of the daemon and the start of the next. A [Writer]
// keeps what is not acknowledged and sends it again, a [Reader] leaves out what it
// has handed on, [Client.Watch] goes on behind the last event: who uses them sees
// nothing of it but time. It goes on until the context ends, or for ReconnectFor.
// Unary calls that may happen twice are repeated, for 30 s or as [RepeatFor] says,
// and creations are made so that they may. A signal, or a message of [Endpoint.Send],
// is never sent twice: where it may have been sent, the error matches
// [ErrUnavailable].
//
// A session that did not outlive the death of the daemon, because the keeper died
// with it or the machine did, is told with [ErrSessionLost].
//
// A Writer with an ID goes on even where an earlier one, in a process that was
// killed, stopped: [Writer.Next] says where, and what is sent twice under one
// number is written once.
//
// # Leases
//
// One client at a time sends into an endpoint, and one consumes from it. A Writer
// or Reader takes that right by itself, keeps it for a while when it is cut, and
// gives it back when it is closed; any number of observers look on.
// [Endpoint.AcquireLease] takes it without a stream. Steal takes it from whoever
// has it: their Writer or Reader ends with [ErrFenced], and nothing more of theirs
// is taken.
//
// # Errors
//
// Errors of the daemon are *[Error] with a [Reason], and
// errors.Is(err, client.ErrSessionNotFound) and its like find them.
package client
