package processes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/piped-dev/piped/keeper/keepertest"
	"github.com/piped-dev/piped/test/daemon"
)

// patience is how long a row waits for what has to come.
var patience = daemon.Patience

// long says that the rows run in full.
var long = os.Getenv("PROCESSES") == "long"

// sized returns how much of something a row does.
func sized(inShort, inLong int) int {
	if long {
		return inLong
	}
	return inShort
}

func TestMain(m *testing.M) {
	keepertest.Main()
	daemon.Main(m)
}

// program compiles testdata/child.c into the directory of the programs, which goes
// with them.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(daemon.Bin(), "child")
	return path, compile("testdata/child.c", path)
})

// plays is the command line of a child in a role.
func plays(t testing.TB, role ...string) []string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{path}, role...)
}

// compile makes a program of one file in C.
func compile(source, program string) error {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.Command(cc, "-O1", "-Wall", "-o", program, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compiling %s: %w\n%s", source, err, out)
	}
	return nil
}

// await looks until ok says yes, and returns false when patience ends.
func await(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return ok()
		}
	}
	return true
}
