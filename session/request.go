package session

import (
	"context"
	"fmt"
	"reflect"
	"sync"
)

// requests makes creations repeatable: the same request id with the same
// content returns what the first call made, even while that is still under way.
type requests struct {
	mu sync.Mutex
	m  map[string]*request
}

type request struct {
	spec any
	done chan struct{}
	made any
	err  error
}

const maxRequestID = 128

// once calls f unless id is known. An empty id is never known. A call that fails
// is forgotten.
func (r *requests) once(ctx context.Context, id string, spec any, f func() (any, error)) (any, error) {
	if id == "" {
		return f()
	}
	if len(id) > maxRequestID {
		return nil, argument("request id has %d bytes, at most %d are allowed", len(id), maxRequestID)
	}
	r.mu.Lock()
	if q, ok := r.m[id]; ok {
		r.mu.Unlock()
		if !reflect.DeepEqual(q.spec, spec) {
			return nil, fmt.Errorf("%w: %q", ErrRequestReused, id)
		}
		select {
		case <-q.done:
			return q.made, q.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r.m == nil {
		r.m = make(map[string]*request)
	}
	q := &request{spec: spec, done: make(chan struct{})}
	r.m[id] = q
	r.mu.Unlock()
	defer close(q.done)
	if q.made, q.err = f(); q.err != nil {
		r.forget(id)
	}
	return q.made, q.err
}

func (r *requests) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, id)
}
