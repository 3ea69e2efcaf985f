package server

import (
	"context"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/pipe"
)

// infoService tells about the daemon itself.
type infoService struct {
	pipedv1.UnimplementedServerServiceServer
	server *Server
	start  time.Time
}

func newInfoService(s *Server) *infoService {
	return &infoService{server: s, start: time.Now()}
}

// GetServerInfo returns version, limits and counts.
func (i *infoService) GetServerInfo(context.Context, *pipedv1.GetServerInfoRequest) (*pipedv1.GetServerInfoResponse, error) {
	o := i.server.opts
	active, ended := i.server.reg.Counts()
	return &pipedv1.GetServerInfoResponse{
		Version:        o.Version,
		Limits:         limits(o, i.server.reg.MaxSessions()),
		Features:       features(),
		Durability:     pipedv1.Durability_DURABILITY_MEMORY,
		Pid:            int32(os.Getpid()), //nolint:gosec // a pid is at most 2^22
		StartTime:      timestamppb.New(i.start),
		ActiveSessions: uint64(max(active, 0)),
		EndedSessions:  uint64(max(ended, 0)),
		Addresses:      o.Addresses,
	}, nil
}

// features names what differs between versions of the daemon: "framing/NAME" for
// each framing, "ack/LEVEL" for each level at which Send acknowledges.
func features() []string {
	all := []string{"ack/committed", "ack/delivered"}
	for _, name := range pipe.FramingNames() {
		all = append(all, "framing/"+name)
	}
	return all
}

//nolint:gosec // no limit is negative, and the counts are small
func limits(o Options, maxSessions int) *pipedv1.Limits {
	return &pipedv1.Limits{
		PartSize:                uint64(o.partSize()),
		MaxMessageSize:          o.Sessions.MaxMessageSize,
		LogSize:                 uint64(o.Sessions.LogSize),
		TailSize:                uint64(o.Sessions.TailSize),
		MaxStreamsPerConnection: uint32(o.MaxStreamsPerConnection),
		MaxPollEndpoints:        uint32(o.MaxPollEndpoints),
		HeartbeatInterval:       durationpb.New(o.HeartbeatInterval),
		EndedRetention:          durationpb.New(o.Sessions.EndedFor),
		EndedMax:                uint32(o.Sessions.EndedMax),
		MaxSessions:             uint64(maxSessions),
		MaxPageSize:             uint32(o.MaxPageSize),
	}
}
