package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// FuzzSendBuffer holds the decoder of Send against package proto, for whatever
// a client may send.
func FuzzSendBuffer(f *testing.F) {
	batch := func(b *pipedv1.Batch) *pipedv1.SendRequest {
		return &pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: b}}
	}
	for _, req := range []*pipedv1.SendRequest{
		{},
		{Request: &pipedv1.SendRequest_Open{Open: &pipedv1.SendOpen{WriterId: "w", Epoch: 7}}},
		batch(&pipedv1.Batch{}),
		batch(&pipedv1.Batch{Data: []byte("x")}),
		batch(&pipedv1.Batch{First: &pipedv1.Position{Message: 3, Offset: 4}, Data: []byte("abc"), Sizes: []uint32{0, 3}, TotalSize: 9, More: true}),
	} {
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, data...)) // the batches are merged
		f.Add(append(data, 0xff))
	}
	twice := protowire.AppendBytes(protowire.AppendTag(nil, fieldData, protowire.BytesType), []byte("first"))
	twice = protowire.AppendBytes(protowire.AppendTag(twice, fieldData, protowire.BytesType), []byte("last"))
	f.Add(protowire.AppendBytes(protowire.AppendTag(nil, fieldBatch, protowire.BytesType), twice))
	f.Fuzz(func(t *testing.T, data []byte) {
		var want pipedv1.SendRequest
		wantErr := proto.Unmarshal(data, &want)
		in := sendBuffer{req: pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{Data: []byte("older"), More: true}}}}
		err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[:len(data)/2]), mem.SliceBuffer(data[len(data)/2:])}, &in)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if diff := cmp.Diff(&want, &in.req, protocmp.Transform()); err == nil && diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestCodecWritesResponsesOfEverySize(t *testing.T) {
	c := newCodec()
	for _, size := range []int{0, 1, smallest - 100, smallest, 2 * smallest, largest - 100, largest, 2 * largest} {
		want := &pipedv1.RecvResponse{Response: &pipedv1.RecvResponse_Batch{Batch: &pipedv1.Batch{Data: make([]byte, size), More: true}}}
		data, err := c.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got pipedv1.RecvResponse
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if !proto.Equal(want, &got) {
			t.Errorf("%d bytes do not come back", size)
		}
	}
}
