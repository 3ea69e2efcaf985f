package layers

import (
	"strings"
	"testing"
)

// The keeper has to outlive everything else, and may run with more rights than the daemon: what is in it is little.
func TestKeeperIsSmall(t *testing.T) {
	t.Parallel()
	may := []string{modulePath + "/cmd/piped-keeper", modulePath + "/keeper", modulePath + "/failpoint", "golang.org/x/sys"}
	never := []string{"net", "net/http", "crypto/tls", "encoding/gob", "encoding/xml", "os/exec", "plugin", "C"}
	seen := false
	for _, p := range list(t, "linux", "./cmd/piped-keeper", "-deps") {
		seen = seen || p.ImportPath == modulePath+"/cmd/piped-keeper"
		switch {
		case !isStandard(p.ImportPath) && !within(p.ImportPath, may):
			t.Errorf("the keeper imports %s, perhaps through something else", p.ImportPath)
		case within(p.ImportPath, never):
			t.Errorf("the keeper imports %s, perhaps through something else", p.ImportPath)
		}
		if !strings.HasPrefix(p.ImportPath, modulePath) {
			continue
		}
		for _, path := range p.Imports {
			// Package log/slog imports it for a format that the keeper does not use.
			if path == "encoding/json" {
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
	if !seen {
		t.Error("the keeper is not there any more")
	}
}
