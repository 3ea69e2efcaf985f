package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestDuplicateGoesOnWhenTheFirstCallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r requests[string, int]
		first, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := r.once(first, "id", "spec", func() (int, error) {
				<-first.Done()
				return 0, first.Err()
			})
			failed <- err
		}()
		synctest.Wait()
		made := make(chan int)
		for range 2 {
			go func() {
				n, err := r.once(t.Context(), "id", "spec", func() (int, error) { return 7, nil })
				if err != nil {
					t.Error(err)
				}
				made <- n
			}()
		}
		synctest.Wait() // both wait for the first
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the first caller gets %v", err)
		}
		if a, b := <-made, <-made; a != 7 || b != 7 {
			t.Errorf("the others get %d and %d, want 7", a, b)
		}
	})
}

func TestPanicOfTheFirstCallDoesNotKeepTheID(t *testing.T) {
	var r requests[string, int]
	func() {
		defer func() { _ = recover() }()
		_, _ = r.once(t.Context(), "id", "spec", func() (int, error) { panic("test") })
	}()
	if n, err := r.once(t.Context(), "id", "spec", func() (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("the next call gets %d, %v", n, err)
	}
}

func TestDropFreesOnlyItsOwnRequest(t *testing.T) {
	var r requests[string, int]
	old, _ := r.enter("id", digestOf("spec"))
	r.drop("id", old)
	current, first := r.enter("id", digestOf("spec"))
	r.drop("id", old)
	if got, again := r.enter("id", digestOf("spec")); !first || again || got != current {
		t.Error("a request that failed earlier freed the id of a later one")
	}
}
