package client

import (
	"errors"
	"io"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestReaderSaysSoWhenSomethingIsMissing(t *testing.T) {
	at := func(message, offset uint64) *pipedv1.Position {
		return &pipedv1.Position{Message: message, Offset: offset}
	}
	end := func(p *pipedv1.Position) arrival { return arrival{end: &pipedv1.End{Position: p}} }
	batch := func(p *pipedv1.Position) arrival {
		return arrival{batch: unpacked{batch: &pipedv1.Batch{First: p}, at: positionOf(p)}}
	}
	for _, test := range []struct {
		name       string
		have       Position
		next       arrival
		want       error
		incomplete bool
	}{
		{name: "the end where the reader stands", have: Position{Message: 4}, next: end(at(4, 0)), want: io.EOF},
		{name: "an end further on", have: Position{Message: 4}, next: end(at(5, 0)), incomplete: true},
		{name: "an end before", have: Position{Message: 4}, next: end(at(3, 0)), incomplete: true},
		{name: "an end inside a message that was cut", have: Position{Message: 3, Offset: 7}, next: end(at(3, 7)), want: io.EOF},
		{name: "an end inside a message of which less was there", have: Position{Message: 3, Offset: 6}, next: end(at(3, 7)), incomplete: true},
		{name: "an end inside a message that was whole", have: Position{Message: 4}, next: end(at(3, 7)), incomplete: true},
		{name: "the next batch", have: Position{Message: 4, Offset: 2}, next: batch(at(4, 2))},
		{name: "a batch too far", have: Position{Message: 4}, next: batch(at(6, 0)), incomplete: true},
		{name: "a batch again", have: Position{Message: 4}, next: batch(at(3, 0)), incomplete: true},
		{name: "a part too far", have: Position{Message: 4, Offset: 2}, next: batch(at(4, 3)), incomplete: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Reader{at: test.have}
			err := r.take(test.next)
			if _, is := errors.AsType[*IncompleteError](err); is != test.incomplete || errors.Is(err, ErrIncomplete) != is || !is && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v, incomplete %v", err, test.want, test.incomplete)
			}
		})
	}
}
