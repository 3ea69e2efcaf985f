package session

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// requests makes creations repeatable: the same request id with the same
// content returns what the first call made, even while that is still under way.
type requests[Spec, Made any] struct {
	mu sync.Mutex
	m  map[string]*request[Spec, Made]
}

type request[Spec, Made any] struct {
	digest digest        // of the spec
	done   chan struct{} // closed when made and err are final
	made   Made
	err    error
}

const maxRequestID = 128

// A digest stands for the content of a request, which may be large, and
// outlives the daemon.
type digest [sha256.Size]byte

// digestOf returns the digest of a spec. Every field of a spec is exported and
// can be written as JSON, whose maps are sorted.
func digestOf(spec any) digest {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(err) // a spec is plain data
	}
	return sha256.Sum256(text)
}

// errPanicked is what those get who wait for a call that panicked.
var errPanicked = errors.New("the first call with this request id did not return")

// once calls f unless id is known. An empty id is never known. A call that fails
// is forgotten; those who waited for it get its error, but if it failed only
// because its own caller has gone, the next of them calls f.
func (r *requests[Spec, Made]) once(ctx context.Context, id string, spec Spec, f func() (Made, error)) (made Made, err error) {
	if id == "" {
		return f()
	}
	if len(id) > maxRequestID {
		return made, argument("request id has %d bytes, at most %d are allowed", len(id), maxRequestID)
	}
	for {
		q, first := r.enter(id, digestOf(spec))
		if first {
			return r.call(id, q, f)
		}
		if q.digest != digestOf(spec) {
			return made, fmt.Errorf("%w: %q", ErrRequestReused, id)
		}
		select {
		case <-q.done:
		case <-ctx.Done():
			return made, ctx.Err()
		}
		if !gaveUp(q.err) {
			return q.made, q.err
		}
		if ctx.Err() != nil {
			return made, ctx.Err()
		}
	}
}

// enter returns the request of that id, and whether this call made it.
func (r *requests[Spec, Made]) enter(id string, content digest) (q *request[Spec, Made], first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q, ok := r.m[id]; ok {
		return q, false
	}
	q = &request[Spec, Made]{digest: content, done: make(chan struct{}), err: errPanicked}
	r.putLocked(id, q)
	return q, true
}

func (r *requests[Spec, Made]) putLocked(id string, q *request[Spec, Made]) {
	if r.m == nil {
		r.m = make(map[string]*request[Spec, Made])
	}
	r.m[id] = q
}

// recall enters a request that an earlier life of the daemon carried out.
func (r *requests[Spec, Made]) recall(id string, content digest, made Made) {
	if id == "" {
		return
	}
	q := &request[Spec, Made]{digest: content, done: make(chan struct{}), made: made}
	close(q.done)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putLocked(id, q)
}

// call carries the first call of a request out.
func (r *requests[Spec, Made]) call(id string, q *request[Spec, Made], f func() (Made, error)) (Made, error) {
	defer func() {
		if q.err != nil {
			r.drop(id, q)
		}
		close(q.done)
	}()
	q.made, q.err = f()
	return q.made, q.err
}

// gaveUp reports whether a call failed because its caller did not want it any
// more.
func gaveUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// forget frees the id of a request whose work has been undone. If the call is
// just about to return it waits for that.
func (r *requests[Spec, Made]) forget(id string) {
	r.mu.Lock()
	q := r.m[id]
	r.mu.Unlock()
	if q != nil {
		<-q.done
		r.drop(id, q)
	}
}

// drop frees an id unless it stands for another request by now.
func (r *requests[Spec, Made]) drop(id string, q *request[Spec, Made]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m[id] == q {
		delete(r.m, id)
	}
}
