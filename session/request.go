package session

import (
	"context"
	"fmt"
	"reflect"
	"sync"
)

// requests makes creations repeatable: the same request id with the same
// content returns what the first call made, even while that is still under way.
type requests[Spec, Made any] struct {
	mu sync.Mutex
	m  map[string]*request[Spec, Made]
}

type request[Spec, Made any] struct {
	spec Spec
	done chan struct{}
	made Made
	err  error
}

const maxRequestID = 128

// once calls f unless id is known. An empty id is never known. A call that fails
// is forgotten.
func (r *requests[Spec, Made]) once(ctx context.Context, id string, spec Spec, f func() (Made, error)) (made Made, err error) {
	if id == "" {
		return f()
	}
	if len(id) > maxRequestID {
		return made, argument("request id has %d bytes, at most %d are allowed", len(id), maxRequestID)
	}
	r.mu.Lock()
	if q, ok := r.m[id]; ok {
		r.mu.Unlock()
		if !reflect.DeepEqual(q.spec, spec) {
			return made, fmt.Errorf("%w: %q", ErrRequestReused, id)
		}
		select {
		case <-q.done:
			return q.made, q.err
		case <-ctx.Done():
			return made, ctx.Err()
		}
	}
	if r.m == nil {
		r.m = make(map[string]*request[Spec, Made])
	}
	q := &request[Spec, Made]{spec: spec, done: make(chan struct{})}
	r.m[id] = q
	r.mu.Unlock()
	defer close(q.done)
	if q.made, q.err = f(); q.err != nil {
		r.forget(id)
	}
	return q.made, q.err
}

func (r *requests[Spec, Made]) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, id)
}
