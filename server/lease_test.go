package server

import (
	"context"
	"errors"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

type sendClient = grpc.BidiStreamingClient[pipedv1.SendRequest, pipedv1.SendResponse]

// send opens a Send stream; cut ends it as a lost connection does.
func (c clients) send(t *testing.T, open *pipedv1.SendOpen) (stream sendClient, cut context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := c.pipes.Send(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pipedv1.SendRequest{Request: &pipedv1.SendRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return stream, cancel
}

func batch(t *testing.T, stream sendClient, data string) {
	t.Helper()
	req := &pipedv1.SendRequest{Request: &pipedv1.SendRequest_Batch{Batch: &pipedv1.Batch{Data: []byte(data)}}}
	if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

// told returns what comes next on a Send stream, as a word: "opened", "ack N", "OK" or a reason.
func told(t *testing.T, stream sendClient) (string, *pipedv1.SendResponse) {
	t.Helper()
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return "OK", nil
		case err != nil:
			return answerTo(t, err).Reason, nil
		case resp.GetOpened() != nil:
			return "opened", resp
		case resp.GetAck() != nil:
			return "ack " + strconv.FormatUint(resp.GetAck().GetPosition().GetMessage(), 10), resp
		}
	}
}

func wantTold(t *testing.T, stream sendClient, want ...string) (last *pipedv1.SendResponse) {
	t.Helper()
	for _, w := range want {
		got, resp := told(t, stream)
		if got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
		last = resp
	}
	return last
}

// flow returns the flow of an end of the only pipe.
func (c clients) flow(t *testing.T, n int, out bool) *pipedv1.Flow {
	t.Helper()
	resp, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	e := resp.GetSession().GetPipes()[0].GetEndpoints()[n-1]
	if out {
		return e.GetOutbox()
	}
	return e.GetInbox()
}

func writeOne(c clients, req *pipedv1.WriteRequest) func() error {
	req.Endpoint, req.Messages = end(1), [][]byte{[]byte("w")}
	return func() error {
		_, err := c.pipes.Write(context.Background(), req)
		return err
	}
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func TestThiefEndsTheStreamOfTheWriter(t *testing.T) {
	c := withPipe(t, "mp")
	a, _ := c.send(t, &pipedv1.SendOpen{Endpoint: end(1), WriterId: "a", LeaseDuration: durationpb.New(time.Minute)})
	batch(t, a, "x")
	opened := wantTold(t, a, "opened").GetOpened()
	if l := opened.GetLease(); len(opened.GetLeaseToken()) != 16 || l.GetHolder() != "a" || l.GetEpoch() != 1 ||
		l.GetRole() != pipedv1.LeaseRole_LEASE_ROLE_WRITER || l.GetExpireTime() != nil {
		t.Errorf("the lease of the stream: %v", l)
	}
	wantTold(t, a, "ack 2")
	b, _ := c.send(t, &pipedv1.SendOpen{Endpoint: end(1), WriterId: "b", Steal: true, LeaseDuration: durationpb.New(time.Minute)})
	wantTold(t, b, "opened")
	_, err := a.Recv()
	want := answer{codes.Aborted, "FENCED", map[string]string{"by": "b", "epoch": "2"}}
	if diff := cmp.Diff(want, answerTo(t, err)); diff != "" {
		t.Errorf("the loser (-want +got):\n%s", diff)
	}
	for name, call := range map[string]func() error{
		"Write": writeOne(c, &pipedv1.WriteRequest{WriterId: "a", LeaseToken: opened.GetLeaseToken()}),
		"AcquireLease": func() error {
			_, err := c.pipes.AcquireLease(t.Context(), &pipedv1.AcquireLeaseRequest{
				Endpoint: end(1), Role: pipedv1.LeaseRole_LEASE_ROLE_WRITER, LeaseToken: opened.GetLeaseToken()})
			return err
		},
	} {
		if diff := cmp.Diff(want, answerTo(t, call())); diff != "" {
			t.Errorf("%s with the old token (-want +got):\n%s", name, diff)
		}
	}
	if got := answerTo(t, writeOne(c, &pipedv1.WriteRequest{WriterId: "a"})()); got.Reason != "BUSY_WRITER" || got.Metadata["client"] != "b" || got.Metadata["expires"] != "" {
		t.Errorf("without a token: %v", got)
	}
	if err := b.CloseSend(); err != nil {
		t.Fatal(err)
	}
	wantTold(t, b, "OK")
	if err := writeOne(c, &pipedv1.WriteRequest{WriterId: "a"})(); err != nil {
		t.Errorf("a clean end keeps the lease: %v", err)
	}
}

func TestKilledWriterComesBackWhileItsLeaseLasts(t *testing.T) {
	c := withPipe(t, "mp")
	open := &pipedv1.SendOpen{Endpoint: end(1), WriterId: "a", LeaseDuration: durationpb.New(time.Minute)}
	stream, cut := c.send(t, open)
	wantTold(t, stream, "opened")
	if f := c.flow(t, 1, true); f.GetClient() != "a" || f.GetLease().GetHolder() != "a" || f.GetLease().GetExpireTime() != nil {
		t.Errorf("observers see %v", f)
	}
	cut()
	eventually(t, func() error {
		if f := c.flow(t, 1, true); f.GetClient() != "" || f.GetLease().GetExpireTime() == nil {
			return errors.New("the cut is not seen")
		}
		return nil
	})
	got := answerTo(t, writeOne(c, &pipedv1.WriteRequest{WriterId: "b"})())
	expires, err := time.Parse(time.RFC3339, got.Metadata["expires"])
	if left := time.Until(expires); got.Reason != "BUSY_WRITER" || err != nil || left < 50*time.Second || left > time.Minute {
		t.Errorf("another writer: %v", got)
	}
	stream, cut = c.send(t, open)
	wantTold(t, stream, "opened")
	// A unary call under the id takes over, and the lease stays.
	if err := writeOne(c, &pipedv1.WriteRequest{WriterId: "a"})(); err != nil {
		t.Error(err)
	}
	wantTold(t, stream, "SUPERSEDED")
	cut()
	short := &pipedv1.SendOpen{Endpoint: end(1), WriterId: "a", LeaseDuration: durationpb.New(50 * time.Millisecond)}
	stream, cut = c.send(t, short)
	wantTold(t, stream, "opened")
	cut()
	eventually(t, writeOne(c, &pipedv1.WriteRequest{WriterId: "b"}))
}

func TestSecondLifeOfAWriterFencesTheFirst(t *testing.T) {
	c := withPipe(t, "mp")
	open := &pipedv1.SendOpen{Endpoint: end(1), WriterId: "a", LeaseDuration: durationpb.New(time.Minute)}
	first, _ := c.send(t, open)
	token := wantTold(t, first, "opened").GetOpened().GetLeaseToken()
	second, cut := c.send(t, open)
	if opened := wantTold(t, second, "opened").GetOpened(); opened.GetLease().GetEpoch() != 2 || string(opened.GetLeaseToken()) == string(token) {
		t.Errorf("the second life got %v", opened.GetLease())
	}
	wantTold(t, first, "SUPERSEDED")
	cut()
	_, err := c.pipes.Write(t.Context(), &pipedv1.WriteRequest{Endpoint: end(1), Messages: [][]byte{[]byte("x")}, WriterId: "a", LeaseToken: token})
	if diff := cmp.Diff(answer{codes.Aborted, "FENCED", map[string]string{"by": "a", "epoch": "2"}}, answerTo(t, err)); diff != "" {
		t.Errorf("the first life comes back (-want +got):\n%s", diff)
	}
}

func TestConsumersGiveTheirLeaseBackWhenTheyDetach(t *testing.T) {
	c := withPipe(t, "mp")
	c.write(t, "x")
	stream := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), ConsumerId: "a", LeaseDuration: durationpb.New(time.Minute)})
	resp, err := stream.Recv()
	if err != nil || len(resp.GetOpened().GetLeaseToken()) != 16 || resp.GetOpened().GetLease().GetRole() != pipedv1.LeaseRole_LEASE_ROLE_CONSUMER {
		t.Fatal(resp, err)
	}
	wantNext(t, stream, "x")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	wantNext(t, stream, "DETACHED")
	b := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), ConsumerId: "b"})
	wantNext(t, b, "opened", "x")
	observer := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), Mode: pipedv1.RecvMode_RECV_MODE_OBSERVE})
	if resp, err := observer.Recv(); err != nil || resp.GetOpened().GetLease() != nil || len(resp.GetOpened().GetLeaseToken()) != 0 {
		t.Errorf("an observer was given %v, %v", resp, err)
	}
	thief := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), Steal: true})
	wantNext(t, thief, "opened", "x")
	wantNext(t, b, "FENCED")
}

func TestAcquiredLeaseKeepsOthersOut(t *testing.T) {
	c := withPipe(t, "mp")
	c.write(t, "x")
	consumer := &pipedv1.AcquireLeaseRequest{Endpoint: end(2), Role: pipedv1.LeaseRole_LEASE_ROLE_CONSUMER, Holder: "me"}
	got, err := c.pipes.AcquireLease(t.Context(), consumer)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(got.GetLease().GetExpireTime().AsTime()); left < 25*time.Second || left > 30*time.Second {
		t.Errorf("without a duration it lasts %v", left)
	}
	read := &pipedv1.ReadRequest{Endpoint: end(2)}
	if _, err := c.pipes.Read(t.Context(), read); answerTo(t, err).Reason != "BUSY_READER" {
		t.Errorf("another reader: %v", err)
	}
	read.LeaseToken = got.GetLeaseToken()
	for range 2 {
		if resp, err := c.pipes.Read(t.Context(), read); err != nil || string(resp.GetBatch().GetData()) != "x" {
			t.Errorf("the holder: %v, %v", resp, err)
		}
	}
	stream := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), ConsumerId: "me"})
	wantNext(t, stream, "opened", "x")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	wantNext(t, stream, "DETACHED")
	if l := c.flow(t, 2, false).GetLease(); l.GetHolder() != "me" || l.GetExpireTime() == nil {
		t.Errorf("after a stream of its holder: %v", l)
	}
	open := c.recv(t, &pipedv1.RecvOpen{Endpoint: end(2), LeaseToken: got.GetLeaseToken()})
	wantNext(t, open, "opened", "x")
	for range 2 {
		if _, err := c.pipes.ReleaseLease(t.Context(), &pipedv1.ReleaseLeaseRequest{Endpoint: end(2), LeaseToken: got.GetLeaseToken()}); err != nil {
			t.Fatal(err)
		}
	}
	wantNext(t, open, "FENCED")
	if l := c.flow(t, 2, false).GetLease(); l != nil {
		t.Errorf("after its release: %v", l)
	}
	consumer.Role = 9
	if _, err := c.pipes.AcquireLease(t.Context(), consumer); answerTo(t, err).Reason != "ARGUMENT" {
		t.Errorf("an unknown role: %v", err)
	}
	consumer.Role, consumer.Duration = pipedv1.LeaseRole_LEASE_ROLE_CONSUMER, durationpb.New(-1)
	if _, err := c.pipes.AcquireLease(t.Context(), consumer); answerTo(t, err).Reason != "ARGUMENT" {
		t.Errorf("a negative duration: %v", err)
	}
}

func TestOlderEpochCannotWrite(t *testing.T) {
	c := withPipe(t, "mp")
	if err := writeOne(c, &pipedv1.WriteRequest{WriterId: "a", Epoch: 3})(); err != nil {
		t.Fatal(err)
	}
	want := answer{codes.Aborted, "FENCED", map[string]string{"by": "a", "epoch": "3"}}
	if diff := cmp.Diff(want, answerTo(t, writeOne(c, &pipedv1.WriteRequest{WriterId: "a", Epoch: 2})())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
