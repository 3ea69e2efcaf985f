//go:build linux

package client_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestWatchGoesOnBehindTheLastEventAfterACut(t *testing.T) {
	direct := dial(t)
	newSession := func(i int) {
		create(t, direct, &pipedv1.CreateSessionRequest{Name: fmt.Sprintf("watched-%d", i), Pipes: []*pipedv1.PipeSpec{{}}})
	}
	newSession(0)
	c, p := throughProxy(t)
	var got []string
	for resp, err := range c.Watch(t.Context(), &pipedv1.WatchSessionsRequest{NamePrefix: "watched-"}) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case resp.GetSnapshot() != nil:
			got = append(got, "snapshot "+resp.GetSnapshot().GetName())
			continue
		case resp.GetSnapshotEnd() != nil:
			got = append(got, "complete")
		case resp.GetEvent().GetType() == pipedv1.SessionEvent_TYPE_SESSION_CREATED:
			got = append(got, "created "+resp.GetEvent().GetSession())
		}
		if len(got) == 5 {
			break
		}
		p.cutAll(false)
		newSession(len(got))
	}
	want := []string{"snapshot watched-0", "complete", "created watched-2", "created watched-3", "created watched-4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWatchStopsAtNow(t *testing.T) {
	c := dial(t)
	name := create(t, c, &pipedv1.CreateSessionRequest{Pipes: []*pipedv1.PipeSpec{{}}})
	created := false
	req := &pipedv1.WatchSessionsRequest{NamePrefix: name, Retained: true, StopAtNow: true}
	for resp, err := range c.Watch(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		created = created || resp.GetEvent().GetType() == pipedv1.SessionEvent_TYPE_SESSION_CREATED
	}
	if !created || req.GetResumeToken() != "" {
		t.Errorf("created %v, the request was changed to %v", created, req)
	}
}

func TestWatchSaysWhatIsWrong(t *testing.T) {
	var last error
	for _, err := range dial(t).Watch(t.Context(), &pipedv1.WatchSessionsRequest{ResumeToken: "!"}) {
		last = err
	}
	if !errors.Is(last, client.ErrArgument) {
		t.Errorf("got %v, want ErrArgument", last)
	}
}
