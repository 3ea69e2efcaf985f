package session_test

import (
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/session"
)

func TestLifeThatComesBackWithoutTheTokenIsTheSameHolder(t *testing.T) {
	for name, duration := range map[string]time.Duration{"while the lease waits": time.Hour, "after the lease has ended": 0} {
		t.Run(name, func(t *testing.T) {
			one, _ := barePipe(t, newRegistry(t, nil), "mp")
			claim := session.Claim{Duration: duration, Life: "first"}
			w := writer(t, one, session.WriterOptions{ID: "a", Claim: claim})
			old, before := w.Lease()
			w.Cut()
			// Its answer with the token was cut off: it has none.
			w = writer(t, one, session.WriterOptions{ID: "a", Claim: claim})
			if _, l := w.Lease(); l.Epoch != before.Epoch || l.Holder != "a" {
				t.Errorf("the same life got %+v after %+v", l, before)
			}
			w.Cut()
			// Or it has that of the stream before.
			claim.Token = old[:]
			w = writer(t, one, session.WriterOptions{ID: "a", Claim: claim})
			if _, l := w.Lease(); l.Epoch != before.Epoch {
				t.Errorf("the same life with its old token got %+v after %+v", l, before)
			}
			w.Cut()
		})
	}
}

func TestAnotherLifeInBetweenFencesTheFirst(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	open := func(life string, token []byte) (*session.Writer, error) {
		return one.OpenWriter(session.WriterOptions{ID: "a", Claim: session.Claim{Life: life, Token: token}})
	}
	first, err := open("first", nil)
	if err != nil {
		t.Fatal(err)
	}
	token, before := first.Lease()
	first.Cut()
	second, err := open("second", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, l := second.Lease(); l.Epoch != before.Epoch+1 {
		t.Errorf("another life got %+v after %+v", l, before)
	}
	second.Cut()
	_, err = open("first", token[:])
	wantFenced(t, err, "", before.Epoch+1)
}

func TestLifeThatIsTooLongIsRefused(t *testing.T) {
	one, _ := barePipe(t, newRegistry(t, nil), "mp")
	_, err := one.OpenWriter(session.WriterOptions{ID: "a", Claim: session.Claim{Life: strings.Repeat("x", 65)}})
	if err == nil || !strings.Contains(err.Error(), "life has 65 bytes, at most 64") {
		t.Errorf("%v", err)
	}
}
