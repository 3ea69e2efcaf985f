package system

import (
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/test/daemon"
)

// patience is how long a test waits for what has to come.
var patience = daemon.Patience

// settle is how long a test looks that something does not happen.
const settle = 60 * time.Millisecond

func TestMain(m *testing.M) {
	keepertest.Main()
	if os.Getenv(clientRole) != "" {
		os.Exit(playClient())
	}
	daemon.Main(m)
}

// start starts a daemon with further arguments and connects to it. A panic in
// a handler, which a client sees as INTERNAL only, fails the test.
func start(t *testing.T, args ...string) (*daemon.Daemon, *peer) {
	t.Helper()
	d := daemon.Start(t, args...)
	t.Cleanup(func() {
		if log := d.Log(); strings.Contains(log, "panic") {
			t.Errorf("a panic in the log of the daemon:\n%s", log)
		}
	})
	return d, dial(t, d.Addr)
}

// dial makes one more connection.
func dial(t *testing.T, addr string) *peer {
	t.Helper()
	conn, err := connect(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it
	return newPeer(t, conn)
}

func connect(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// eventually looks until ok says yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// always looks for a while that something stays so.
func always(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(settle)
	for {
		if !ok() {
			t.Fatalf("not always: %s", what)
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}
