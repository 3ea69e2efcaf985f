package exact

// A reader is who got the messages of a direction.
type reader int

const (
	byChild  reader = iota // what it got counts as delivered
	byClient               // what it got counts as received
)

// A history is what is known about one direction of one pipe: what its writers
// did, and what its reader got, in its order.
type history struct {
	// session, pipe and direction are what each message must say.
	session, pipe, direction string
	reader                   reader
	// complete says that the reader got everything there was: what was
	// acknowledged and is not here is lost.
	complete bool
	writers  map[string]*writing
	got      []observation
}

// A writing is what one writer did. Its numbers begin at 1.
type writing struct {
	// sent is the highest number that it may have sent, acked the highest below
	// which all is acknowledged.
	sent, acked uint64
}

// An observation is one thing that a reader got.
type observation struct {
	// body is the message; nil when this is a gap.
	body []byte
	// position is the message number that the reader was told; 0 when nobody
	// tells it one.
	position uint64
	// gap is the number at which the stream goes on after messages that were
	// announced as dropped.
	gap uint64
	// cut says that the reader was told that the message is not whole.
	cut bool
	// at is when it came, in nanoseconds of the wall clock; 0 where unknown.
	at int64
}

func newHistory(session, pipe, direction string, r reader) *history {
	return &history{session: session, pipe: pipe, direction: direction, reader: r, writers: map[string]*writing{}}
}

// writer returns what is known of one writer.
func (h *history) writer(name string) *writing {
	w := h.writers[name]
	if w == nil {
		w = &writing{}
		h.writers[name] = w
	}
	return w
}

// echo is the history of a child that sends back what it gets: everything that
// it got is to be received, as it was sent.
func (h *history) echo() *history {
	back := newHistory(h.session, h.pipe, h.direction, byClient)
	for _, o := range h.got {
		if s, err := readStamp(o.body); err == nil {
			w := back.writer(s.writer)
			w.sent, w.acked = max(w.sent, s.number), max(w.acked, s.number)
		}
	}
	return back
}
