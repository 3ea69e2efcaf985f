package session

import (
	"cmp"
	"slices"

	"github.com/piped-dev/piped/pipe"
)

// A writerRecord is what is remembered of a writer id.
type writerRecord struct {
	id    string
	epoch uint64
	next  uint64 // sequence number of the next message; in raw, of the next byte
	kept  bool   // among those of its endpoint
	used  uint64 // higher: more recent
}

// writerRecords remembers writers, least recent first. It is short enough to be
// searched.
type writerRecords []*writerRecord

// get returns the record of id, a new one if it is not remembered.
func (r *writerRecords) get(id string) *writerRecord {
	i := slices.IndexFunc(*r, func(w *writerRecord) bool { return w.id == id })
	if i < 0 {
		return &writerRecord{id: id, next: 1}
	}
	rec := (*r)[i]
	*r = append(slices.Delete(*r, i, i+1), rec)
	return rec
}

// keep remembers a record once it says more than a new one would, so that ids
// under which nothing was sent push nobody out. It returns who was pushed out, or
// nil.
func (r *writerRecords) keep(rec *writerRecord) (forgotten *writerRecord) {
	if rec.kept || rec.id == "" || rec.epoch == 0 && rec.next == 1 {
		return nil
	}
	if len(*r) >= maxWriters {
		forgotten = (*r)[0]
		*r = slices.Delete(*r, 0, 1)
	}
	rec.kept = true
	*r = append(*r, rec)
	return forgotten
}

// Which message comes next in a writer's sequence follows from the direction: a
// writer that began when message At was the next one, with Next, has come to
// Next+(n-At) when message n is. So nothing has to be written down for each
// message, and nothing can be killed in between: only the change of writers is
// recorded, before the new one can commit anything.

// sendAs makes rec the one whose messages are appended; the endpoint's mutex is held.
func (e *Endpoint) sendAs(rec *writerRecord, out *pipe.Outbox) error {
	at := out.Info().Accepted.Message
	e.used++
	rec.used = e.used
	if old := e.sender; old != nil && old != rec && old.kept {
		if err := e.session.put(e.writerKey(old), old.state(at)); err != nil {
			return err
		}
	}
	if err := e.session.put(e.key(prefixSender), rec.state(at)); err != nil {
		return err
	}
	e.sender = rec
	return nil
}

func (e *Endpoint) writerKey(rec *writerRecord) string { return e.key(prefixWriter) + "/" + rec.id }

func (w *writerRecord) state(at uint64) writerState {
	return writerState{ID: w.id, Epoch: w.epoch, Next: w.next, At: at, Used: w.used, Kept: w.kept}
}

// remember keeps a record, and forgets who is pushed out by it; the endpoint's
// mutex is held.
func (e *Endpoint) remember(rec *writerRecord) {
	if old := e.records.keep(rec); old != nil {
		e.session.strike(e.writerKey(old))
	}
}

// restoreWriters makes the memory of writers again.
func (e *Endpoint) restoreWriters(writers []*writerState, sender *writerState) {
	out, err := e.ep.Outbox()
	if err != nil {
		return
	}
	for _, w := range writers {
		e.records = append(e.records, &writerRecord{id: w.ID, epoch: w.Epoch, next: w.Next, kept: true, used: w.Used})
		e.used = max(e.used, w.Used)
	}
	slices.SortFunc(e.records, func(a, b *writerRecord) int { return cmp.Compare(a.used, b.used) })
	if sender == nil {
		return
	}
	rec := e.records.get(sender.ID)
	rec.epoch, rec.used = sender.Epoch, sender.Used
	rec.next = sender.Next + out.Info().Accepted.Message - sender.At
	e.used = max(e.used, sender.Used)
	e.records.keep(rec)
	e.sender = rec
}
