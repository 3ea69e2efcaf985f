package client

import (
	"errors"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// The daemon says where it stands; what that means depends on what it was sent.
func TestWriterGoesOnOnlyWhereNothingIsMissing(t *testing.T) {
	at := func(message, offset uint64) Position { return Position{Message: message, Offset: offset} }
	for _, test := range []struct {
		name     string
		expected Position
		epoch    uint64
		want     error
		left     int
	}{
		{name: "behind what it acknowledged", expected: at(3, 0), epoch: 1, want: ErrIncomplete},
		{name: "where it acknowledged", expected: at(4, 0), epoch: 1, left: 3},
		{name: "inside a batch", expected: at(5, 0), epoch: 1, left: 3},
		{name: "after a batch", expected: at(6, 0), epoch: 1, left: 2},
		{name: "after a part", expected: at(6, 10), epoch: 1, left: 1},
		{name: "inside a part", expected: at(6, 5), epoch: 1, want: ErrUnfinishedMessage},
		{name: "after everything", expected: at(7, 0), epoch: 1},
		{name: "further than anything was sent", expected: at(8, 0), epoch: 1, want: ErrSuperseded},
		{name: "taken again", expected: at(4, 0), epoch: 2, left: 3},
		{name: "after another holder", expected: at(4, 0), epoch: 3, want: ErrFenced},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &Writer{
				endpoint: &Endpoint{}, level: pipedv1.AckLevel_ACK_LEVEL_COMMITTED, committed: at(4, 0), acked: at(4, 0),
				lease: leaseOf(nil, &pipedv1.Lease{Epoch: 1}, []byte("1")),
			}
			for _, g := range []gathered{
				{first: at(4, 0), end: at(6, 0), sizes: []uint32{0, 0}},
				{first: at(6, 0), end: at(6, 10), part: true, more: true, data: make([]byte, 10), sizes: []uint32{10}},
				{first: at(6, 10), end: at(7, 0), part: true, data: make([]byte, 3), sizes: []uint32{3}},
			} {
				w.window.push(g)
				w.window.next()
			}
			s := &sendStream{opened: &pipedv1.SendOpened{
				Expected: test.expected.proto(), LeaseToken: []byte("2"), Lease: &pipedv1.Lease{Epoch: test.epoch},
			}}
			if err := w.goOn(nil, s); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if test.want != nil {
				return
			}
			if n := len(w.window.batches); n != test.left || w.window.given != 0 || w.acked != test.expected {
				t.Errorf("%d batches are left, %d given, acknowledged up to %v; want %d", n, w.window.given, w.acked, test.left)
			}
		})
	}
}
