package client

import pipedv1 "github.com/piped-dev/piped/gen/piped/v1"

// maxGathered bounds the messages of one batch, for those that are empty.
const maxGathered = 1 << 16

// gathered is what the next batch will hold: whole messages, or one part.
type gathered struct {
	// first is where it begins, end where the next batch does.
	first, end Position
	data       []byte
	// sizes has one entry for each message or part.
	sizes []uint32
	// part says that nothing may join it, more that its message goes on.
	part, more bool
	// total is the size of a message in parts, where it is known.
	total uint64
}

func (g *gathered) empty() bool { return len(g.sizes) == 0 }

// cost is what it counts for in a window.
func (g *gathered) cost() int { return len(g.data) + messageCost*len(g.sizes) }

// fits says whether one more message of n bytes may join.
func (g *gathered) fits(n, limit int) bool {
	return g.empty() || !g.part && len(g.data)+n <= limit && len(g.sizes) < maxGathered
}

// reset returns an empty one that uses the same memory.
func (g gathered) reset() gathered { return gathered{data: g.data[:0], sizes: g.sizes[:0]} }

// request returns the batch. gRPC has encoded it when its Send returns.
func (g *gathered) request(raw bool) *pipedv1.SendRequest {
	batch := &pipedv1.Batch{First: g.first.proto(), Data: g.data, More: g.more, TotalSize: g.total}
	if len(g.sizes) > 1 && !raw {
		batch.Sizes = g.sizes
	}
	return &pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: batch}}
}
