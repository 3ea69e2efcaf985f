package client

const (
	// defaultUnacked bounds what a Writer keeps because it is not acknowledged.
	defaultUnacked = 4 << 20
	// messageCost is what a message is counted for besides its bytes, so that
	// empty ones are bounded too.
	messageCost = 16
	// maxSpare is how many buffers are kept to be used again.
	maxSpare = 32
)

// A window is what was given to a stream and is not acknowledged, in order: what
// a new stream has to be given again.
type window struct {
	batches []*gathered
	// cost is that of all batches.
	cost int
	// given is how many of them the present stream was given.
	given int
	// busy is the batch that is just being encoded.
	busy *gathered
	// to is the end of the last batch that any stream was given.
	to Position
	// spare are buffers to be used again.
	spare []gathered
}

// next returns the batch that the stream is to be given now, or nil.
func (w *window) next() *gathered {
	w.busy = nil
	if w.given == len(w.batches) {
		return nil
	}
	w.busy = w.batches[w.given]
	w.given++
	if end := w.busy.end; end.Compare(w.to) > 0 {
		w.to = end
	}
	return w.busy
}

// push adds a batch and returns an empty one in exchange.
func (w *window) push(g gathered) gathered {
	w.batches = append(w.batches, &g)
	w.cost += g.cost()
	if n := len(w.spare); n > 0 {
		empty := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return empty
	}
	return gathered{}
}

// drop forgets the batches that end at or below a position.
func (w *window) drop(below Position) {
	n := 0
	for n < len(w.batches) && w.batches[n].end.Compare(below) <= 0 {
		g := w.batches[n]
		w.cost -= g.cost()
		if g != w.busy && len(w.spare) < maxSpare {
			w.spare = append(w.spare, g.reset())
		}
		w.batches[n] = nil
		n++
	}
	w.batches = w.batches[n:]
	w.given = max(w.given-n, 0)
}

// rewind makes everything that is left due for the next stream.
func (w *window) rewind() { w.given = 0 }

// endsAt says whether a batch ends exactly there.
func (w *window) endsAt(p Position) bool {
	for _, g := range w.batches {
		if g.end.Compare(p) == 0 {
			return true
		}
	}
	return false
}
