package server

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/session"
)

func TestServerInfoTellsWhatSurvives(t *testing.T) {
	at := time.Unix(1e9, 0)
	var now Survival
	opts := DefaultOptions()
	opts.Survival = func() Survival { return now }
	info := pipedv1.NewServerServiceClient(serveOptions(t, opts).connect(t))
	for name, row := range map[string]struct {
		survival Survival
		want     *pipedv1.GetServerInfoResponse
	}{
		"no keeper": {
			Survival{Reason: "no keeper"},
			&pipedv1.GetServerInfoResponse{SurvivalReason: "no keeper"},
		},
		"the first daemon of a keeper": {
			Survival{Sessions: true, Reason: "a keeper", Epoch: 1, Keeper: &keeper.Info{Pid: 7, Version: "v1", Started: at}},
			&pipedv1.GetServerInfoResponse{SurvivesDaemonDeath: true, SurvivalReason: "a keeper", FrontEpoch: 1,
				Keeper: &pipedv1.Keeper{Pid: 7, Version: "v1", StartTime: timestamppb.New(at)}},
		},
		"a later one, and the keeper is away": {
			Survival{Epoch: 3, Keeper: &keeper.Info{Away: at}, Restart: &Restart{Time: at, Pause: 80 * time.Millisecond, Recovered: 5, Lost: 1}},
			&pipedv1.GetServerInfoResponse{FrontEpoch: 3, Keeper: &pipedv1.Keeper{AwaySince: timestamppb.New(at)},
				LastRestart: &pipedv1.Restart{Time: timestamppb.New(at), Pause: durationpb.New(80 * time.Millisecond), RecoveredSessions: 5, LostSessions: 1}},
		},
		"it is not known when the one before died": {
			Survival{Restart: &Restart{Time: at}},
			&pipedv1.GetServerInfoResponse{LastRestart: &pipedv1.Restart{Time: timestamppb.New(at)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now = row.survival
			got, err := info.GetServerInfo(t.Context(), &pipedv1.GetServerInfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			told := &pipedv1.GetServerInfoResponse{SurvivesDaemonDeath: got.GetSurvivesDaemonDeath(), SurvivalReason: got.GetSurvivalReason(),
				FrontEpoch: got.GetFrontEpoch(), Keeper: got.GetKeeper(), LastRestart: got.GetLastRestart()}
			if diff := cmp.Diff(row.want, told, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExitIsACodeASignalOrUnknown(t *testing.T) {
	at := time.Unix(1e9, 0)
	for name, row := range map[string]struct {
		exit keeper.ExitStatus
		want *pipedv1.Exit
	}{
		"code":   {keeper.ExitStatus{Time: at}, &pipedv1.Exit{Status: &pipedv1.Exit_Code{}}},
		"signal": {keeper.ExitStatus{Code: -1, Signal: syscall.SIGKILL, Time: at}, &pipedv1.Exit{Status: &pipedv1.Exit_Signal{Signal: "KILL"}, SignalNumber: 9}},
		"with usage": {
			keeper.ExitStatus{Time: at, Usage: &keeper.Usage{User: 1500 * time.Millisecond, System: time.Microsecond, Peak: 1 << 40}},
			&pipedv1.Exit{Status: &pipedv1.Exit_Code{}, Usage: &pipedv1.ProcessUsage{
				UserTime: durationpb.New(1500 * time.Millisecond), SystemTime: durationpb.New(time.Microsecond), PeakMemoryBytes: 1 << 40}},
		},
		"unknown": {keeper.ExitStatus{Code: -1, Unknown: true, Time: at}, &pipedv1.Exit{Status: &pipedv1.Exit_Unknown{Unknown: true}}},
	} {
		row.want.ExitTime = timestamppb.New(at)
		got := fromProcess(session.ProcessInfo{Exit: row.exit}).GetExit()
		if diff := cmp.Diff(row.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A client that never heard of its first stream's token comes back with its life.
func TestSameLifeOfAWriterIsTheSameHolder(t *testing.T) {
	c := withPipe(t, "mp")
	open := &pipedv1.SendOpen{Endpoint: end(1), WriterId: "a", Life: "x"}
	first, cut := c.send(t, open)
	wantTold(t, first, "opened")
	for _, cuts := range []bool{false, true} {
		if cuts {
			cut()
		}
		var again sendClient
		again, cut = c.send(t, open)
		if epoch := wantTold(t, again, "opened").GetOpened().GetLease().GetEpoch(); epoch != 1 {
			t.Errorf("cut %v: epoch %d, want 1", cuts, epoch)
		}
	}
	open.Life = "y"
	other, _ := c.send(t, open)
	if epoch := wantTold(t, other, "opened").GetOpened().GetLease().GetEpoch(); epoch != 2 {
		t.Errorf("another life: epoch %d, want 2", epoch)
	}
	open.Life = strings.Repeat("x", 65)
	long, _ := c.send(t, open)
	wantTold(t, long, "ARGUMENT")
}

func TestSameLifeOfAConsumerIsTheSameHolder(t *testing.T) {
	c := withPipe(t, "mp")
	epoch := func(life string) uint64 {
		t.Helper()
		resp, err := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), ConsumerId: "a", Life: life}).Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetOpened().GetLease().GetEpoch()
	}
	if got := [3]uint64{epoch("x"), epoch("x"), epoch("y")}; got != [3]uint64{1, 1, 2} {
		t.Errorf("the epochs of x, x and y are %v, want 1, 1 and 2", got)
	}
	if _, err := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE, Life: "x"}).Recv(); answerTo(t, err).Reason != "ARGUMENT" {
		t.Errorf("an observer with a life: %v", err)
	}
}
