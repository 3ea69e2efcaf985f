package server

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
)

// codec is gRPC's own, except for what carries payloads. gRPC's takes a buffer
// of 1 MiB for whatever is larger than 32 KiB, and package proto allocates each
// payload that it decodes: memory for several messages, and garbage for the
// heap to grow by, for each stream.
type codec struct {
	encoding.CodecV2
	large mem.BufferPool
}

// From smallest on gRPC's own buffers are too large; largest holds a part and
// what goes with it.
const (
	smallest = 32 << 10
	largest  = pipe.DefaultPart + 64<<10
)

func newCodec() codec {
	return codec{CodecV2: encoding.GetCodecV2(grpcproto.Name), large: mem.NewTieredBufferPool(2*smallest, 4*smallest, largest)}
}

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	resp, ok := v.(*pipedv1.RecvResponse)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := proto.Size(resp)
	if size <= smallest || size > largest {
		return c.CodecV2.Marshal(v)
	}
	buf := c.large.Get(size)
	if _, err := (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend((*buf)[:0], resp); err != nil {
		c.large.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, c.large)}, nil
}

// Unmarshal implements [encoding.CodecV2].
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if into, ok := v.(*sendBuffer); ok {
		return into.decode(data)
	}
	return c.CodecV2.Unmarshal(data, v)
}

// A sendBuffer takes the requests of one Send stream, one after another. What
// it holds is valid until the next one is decoded.
type sendBuffer struct {
	req  pipedv1.SendRequest
	wire []byte // the encoded request; the data of req's batch points into it
	rest []byte // a batch without its data
}

// Field numbers of SendRequest.batch and Batch.data.
const (
	fieldBatch = 2
	fieldData  = 2
)

// decode does what package proto does, without copying the payload.
func (s *sendBuffer) decode(data mem.BufferSlice) error {
	if n := data.Len(); cap(s.wire) < n {
		s.wire = make([]byte, n)
	}
	s.wire = s.wire[:data.Len()]
	data.CopyTo(s.wire)
	num, typ, n := protowire.ConsumeTag(s.wire)
	if n < 0 || num != fieldBatch || typ != protowire.BytesType {
		return proto.Unmarshal(s.wire, &s.req)
	}
	body, m := protowire.ConsumeBytes(s.wire[n:])
	if m < 0 || n+m != len(s.wire) {
		return proto.Unmarshal(s.wire, &s.req)
	}
	payload, ok := s.split(body)
	if !ok {
		return proto.Unmarshal(s.wire, &s.req)
	}
	batch := &pipedv1.Batch{}
	if err := proto.Unmarshal(s.rest, batch); err != nil {
		return err
	}
	batch.Data = payload
	s.req.Request = &pipedv1.SendRequest_Batch{Batch: batch}
	return nil
}

// split returns the data of an encoded batch and copies all other fields into
// rest; false if the encoding is broken.
func (s *sendBuffer) split(b []byte) (payload []byte, ok bool) {
	s.rest = s.rest[:0]
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return nil, false
		}
		if num == fieldData && typ == protowire.BytesType {
			payload, _ = protowire.ConsumeBytes(b[n:])
		} else {
			s.rest = append(s.rest, b[:n+m]...)
		}
		b = b[n+m:]
	}
	return payload, true
}
