package server

import (
	"context"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
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
	o := *i.server.options()
	active, ended := i.server.reg.Counts()
	info := &pipedv1.GetServerInfoResponse{
		Version:          o.Version,
		Limits:           limits(o, i.server.reg.MaxSessions()),
		Features:         features(),
		Durability:       durability(o.Sessions.KernelLogs),
		DurabilityReason: o.DurabilityReason,
		Checks:           fromChecks(o.Checks),
		Pid:              int32(os.Getpid()), //nolint:gosec // a pid is at most 2^22
		StartTime:        timestamppb.New(i.start),
		ActiveSessions:   uint64(max(active, 0)),
		EndedSessions:    uint64(max(ended, 0)),
		Addresses:        o.Addresses,
	}
	if o.Survival != nil {
		o.Survival().tell(info)
	}
	return info, nil
}

// A Survival is what outlives the death of the daemon, and what did.
type Survival struct {
	// Sessions outlive it; Reason says why or why not, for people.
	Sessions bool
	Reason   string
	// Epoch is the number of this daemon among those of its keeper.
	Epoch uint64
	// Keeper is the keeper, nil where there is none.
	Keeper *keeper.Info
	// Restart is how this daemon followed another one; nil if it did not.
	Restart *Restart
}

// A Restart is how one daemon followed another.
type Restart struct {
	// Time is when the later one served.
	Time time.Time
	// Pause is how long nobody did; 0 where that is not known.
	Pause time.Duration
	// Recovered and Lost count sessions.
	Recovered, Lost int
}

//nolint:gosec // pids and counts are small
func (s Survival) tell(info *pipedv1.GetServerInfoResponse) {
	info.SurvivesDaemonDeath, info.SurvivalReason, info.FrontEpoch = s.Sessions, s.Reason, s.Epoch
	if k := s.Keeper; k != nil {
		info.Keeper = &pipedv1.Keeper{Pid: int32(k.Pid), Version: k.Version, StartTime: timestamp(k.Started), AwaySince: timestamp(k.Away)}
		info.Cgroups = &pipedv1.Cgroups{Used: k.Cgroups.Used, Controllers: k.Cgroups.Controllers, Reason: k.Cgroups.Why}
	}
	if r := s.Restart; r != nil {
		info.LastRestart = &pipedv1.Restart{
			Time: timestamp(r.Time), RecoveredSessions: uint32(max(r.Recovered, 0)), LostSessions: uint32(max(r.Lost, 0))}
		if r.Pause > 0 {
			info.LastRestart.Pause = durationpb.New(r.Pause)
		}
	}
}

func durability(kernelLogs bool) pipedv1.Durability {
	if kernelLogs {
		return pipedv1.Durability_DURABILITY_KERNEL
	}
	return pipedv1.Durability_DURABILITY_MEMORY
}

func fromChecks(checks []pipe.Check) []*pipedv1.Check {
	out := make([]*pipedv1.Check, len(checks))
	for i, c := range checks {
		out[i] = &pipedv1.Check{Name: c.Name, Passed: c.Err == nil}
		if c.Err != nil {
			out[i].Detail = c.Err.Error()
		}
	}
	return out
}

// features names what differs between versions of the daemon: "framing/NAME" for
// each framing, "ack/LEVEL" for each level at which Send acknowledges, and calls
// that older daemons do not have.
func features() []string {
	all := []string{"ack/committed", "ack/delivered", "ack/read", "leases", "life", "observe/sent",
		"process/after-exit", "process/attributes", "process/merged", "process/restart", "process/stop", "process/terminal", "session/lease", "session/resources", "stop", "watch"}
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
		LeaseDuration:           durationpb.New(o.Sessions.LeaseDuration),
		MaxLeaseDuration:        durationpb.New(o.Sessions.MaxLeaseDuration),
		EventsRetained:          uint32(o.Sessions.EventsRetained),
		StopCloseGrace:          durationpb.New(o.Sessions.StopCloseGrace),
		StopGrace:               durationpb.New(o.Sessions.StopGrace),
		MaxStopGrace:            durationpb.New(o.Sessions.MaxStopGrace),
		IncarnationsKept:        uint32(o.Sessions.IncarnationsKept),
	}
}
