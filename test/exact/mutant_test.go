package exact

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/piped-dev/piped/client"
)

// What the checker is for: clients that do it wrong, against a real daemon, must
// be seen.
func TestCheckerSeesClientsThatDoItWrong(t *testing.T) {
	r := newRow(t, "mutants")
	for i, c := range []struct {
		name string
		// wrong is what the client does. It sends messages as if all were well.
		wrong func(ctx context.Context, k *talk) error
		count func(v *verdict) uint64
	}{
		{"one that repeats what it is not sure of, without its number", unnumbered(1, 2, 3, 3, 4, 5), func(v *verdict) uint64 { return v.duplicated / 2 }}, // it came twice both ways
		{"one that skips what it believes to be sent", unnumbered(1, 2, 4, 5), func(v *verdict) uint64 { return v.lost / 2 }},
		{"one that sends later messages first", unnumbered(1, 3, 2, 4, 5), func(v *verdict) uint64 { return v.reordered / 2 }},
		{"one that acknowledges before it has written down what it got", func(ctx context.Context, k *talk) error {
			rd, err := sentAll(ctx, k)
			if err != nil {
				return err
			}
			if err := k.receive(ctx, rd, 2); err != nil {
				return err
			}
			m, err := rd.Next(ctx)
			if err != nil {
				return err
			}
			if err := rd.Ack(m.After); err != nil {
				return err
			}
			return rd.Close(ctx) // here it died
		}, func(v *verdict) uint64 { return v.lost }},
		{"one that forgets that it has written down what it got", func(ctx context.Context, k *talk) error {
			rd, err := sentAll(ctx, k)
			if err != nil {
				return err
			}
			m, err := rd.Next(ctx)
			if err != nil {
				return err
			}
			k.back = append(k.back, observation{body: m.Data, position: m.Position.Message})
			return rd.Close(ctx) // here it died
		}, func(v *verdict) uint64 { return v.duplicated }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			k := r.newTalk(fmt.Sprintf("wrong-%d", i), "mp")
			r.create(k.request())
			defer r.remove(k.name)
			book := k.in.writer("w")
			if err := c.wrong(ctx, k); err != nil {
				t.Fatal(err)
			}
			book.sent, book.acked = mutantMessages, mutantMessages
			if err := k.finish(ctx); err != nil {
				t.Fatal(err)
			}
			r.v = verdict{}
			if err := k.judge(true); err != nil {
				t.Fatal(err)
			}
			if c.count(&r.v) != 1 {
				t.Errorf("%v\n%s", &r.v, r.v.explain())
			}
		})
	}
}

// mutantMessages is how many messages a wrong client believes to have sent.
const mutantMessages = 5

// unnumbered sends messages without their numbers in the writer's sequence.
func unnumbered(numbers ...uint64) func(ctx context.Context, k *talk) error {
	return func(ctx context.Context, k *talk) error {
		for _, n := range numbers {
			if err := k.r.c.Endpoint(k.ref()).Send(ctx, k.message("w", n, 0)); err != nil {
				return err
			}
		}
		return nil
	}
}

// sentAll sends all messages as it should be and begins to receive.
func sentAll(ctx context.Context, k *talk) (*client.Reader, error) {
	e := k.r.c.Endpoint(k.ref())
	w, err := e.NewWriter(ctx, client.WriterOptions{ID: "w"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(k.send(ctx, w, mutantMessages, 0), w.Close(ctx)); err != nil {
		return nil, err
	}
	return e.NewReader(ctx, client.ReaderOptions{ConsumerID: "c"})
}
