package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestFromFlagSaysWhereAnObserverStarts(t *testing.T) {
	for text, want := range map[string]client.ReaderOptions{
		"":       {Observe: true, Start: pipedv1.RecvStart_RECV_START_UNACKED},
		"oldest": {Observe: true, Start: pipedv1.RecvStart_RECV_START_OLDEST},
		"now":    {Observe: true, Start: pipedv1.RecvStart_RECV_START_NOW},
		"12":     {Observe: true, Start: pipedv1.RecvStart_RECV_START_POSITION, Position: client.Position{Message: 12}},
	} {
		var flag startFlag
		if text != "" {
			if err := flag.Set(text); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(want, flag.observer()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{"", "0", "-1", "new", "1.5"} {
		if err := new(startFlag).Set(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
