package client

import (
	"context"
	"slices"
	"time"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A direction may end some time after its process: finalsFor bounds how long
// Client.Verify asks for its last word, finalsPause is between two times.
const (
	finalsFor   = time.Second
	finalsPause = 10 * time.Millisecond
)

// A Party is a *Reader or a *Writer: one who knows how far it has come in one
// direction of a pipe.
type Party interface {
	// Ref names the endpoint.
	Ref() Ref
	// Incarnation is that of the pipe.
	Incarnation() uint64
	// verify compares with the last word of the direction; nil is none.
	verify(last *pipedv1.Final) error
	// sends says which direction it is.
	sends() bool
}

// Verify compares what Readers and Writers have seen with the last words that the
// daemon told of a process that has exited (Process.finals, as Client.Wait returns
// it). It returns nil when each Reader has received all that came, and of each
// Writer all was acknowledged and, as far as it can be known, read by the process;
// otherwise an *IncompleteError, also about a direction that has not ended yet
// because a descendant of the process holds it.
//
// Readers and Writers of an earlier incarnation are compared with its last words, as
// long as that is kept (Process.former).
//
// The last words may come a few milliseconds after the exit: Client.Verify waits
// for them. An endpoint without the name of a pipe is taken to be of the process's
// stdio; of any other pipe, name it.
func Verify(process *pipedv1.Process, parties ...Party) error {
	for _, party := range parties {
		if err := party.verify(finalOf(process, party)); err != nil {
			return err
		}
	}
	return nil
}

// Verify does the same for a process of a session that has exited, the first one
// with an empty name, and waits up to a second for last words that are missing.
func (c *Client) Verify(ctx context.Context, session, process string, parties ...Party) error {
	deadline := time.NewTimer(finalsFor)
	defer deadline.Stop()
	for late := false; ; {
		exited, err := c.Wait(ctx, session, process, 0)
		if err != nil {
			return err
		}
		if late || allSaid(exited, parties) {
			return Verify(exited, parties...)
		}
		pause := time.NewTimer(finalsPause)
		select {
		case <-pause.C:
		case <-deadline.C:
			late = true
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
		pause.Stop()
	}
}

// allSaid says whether there is a last word for each party.
func allSaid(process *pipedv1.Process, parties []Party) bool {
	for _, party := range parties {
		if finalOf(process, party) == nil {
			return false
		}
	}
	return true
}

// stdioPipe is the name of the pipe of a first process's standard input and
// output.
const stdioPipe = "stdio"

// finalOf finds the last word of a party's direction, or returns nil.
func finalOf(process *pipedv1.Process, party Party) *pipedv1.Final {
	finals := slices.Clone(process.GetFinals())
	for _, former := range process.GetFormer() {
		finals = append(finals, former.GetFinals()...)
	}
	ref := party.Ref()
	if ref.Pipe == "" {
		ref.Pipe = stdioPipe
	}
	for _, final := range finals {
		if incarnation := final.GetLast().GetPosition().GetIncarnation(); incarnation != 0 && incarnation != party.Incarnation() {
			continue
		}
		if final.GetPipe() == ref.Pipe && int(final.GetEnd()) == max(ref.End, 1) && final.GetSent() == party.sends() {
			return final
		}
	}
	return nil
}

func (r *Reader) sends() bool { return false }

func (r *Reader) verify(last *pipedv1.Final) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := last.GetLast()
	if end == nil {
		end = r.end
	}
	if end == nil {
		return &IncompleteError{Have: r.at, Detail: "the direction has not ended yet"}
	}
	return r.completeLocked(end)
}

func (w *Writer) sends() bool { return true }

func (w *Writer) verify(last *pipedv1.Final) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.acked.Compare(w.next) < 0:
		return &IncompleteError{Have: w.acked, Want: w.next, Detail: "not everything was acknowledged"}
	case last == nil:
		return &IncompleteError{Have: w.acked, Want: w.next, Detail: "the direction has not ended yet"}
	case last.AllRead != nil && !last.GetAllRead(), last.AllRead == nil && last.GetLast().GetCause() == pipedv1.EndCause_END_CAUSE_BROKEN_PIPE:
		return &IncompleteError{Have: w.acked, Want: w.next, Detail: "the process did not read all of it"}
	}
	return nil
}
