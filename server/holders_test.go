package server

import (
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// They cost a look at the whole machine.
func TestHoldersAreToldOnlyWhereTheyAreAskedFor(t *testing.T) {
	c := withPipe(t, "line")
	for _, asked := range []bool{false, true} {
		resp, err := c.sessions.GetSession(t.Context(), &pipedv1.GetSessionRequest{Session: "s", Holders: asked})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetSession().GetPipes()[0].GetEndpoints()[0].GetHolders()); (n > 0) != asked {
			t.Errorf("%d holders, asked for: %t", n, asked)
		}
	}
}
