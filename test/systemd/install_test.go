package systemd

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallPutsItsPrefixIntoTheUnitsAndKeepsTheConfiguration(t *testing.T) {
	root := t.TempDir()
	install := func() {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "../../packaging/systemd/install.sh", "/opt/x", root).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	install()
	path := filepath.Join(root, "etc/piped/config.yaml")
	if err := os.WriteFile(path, []byte("log: {level: warn}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	install()
	if text, err := os.ReadFile(path); err != nil || string(text) != "log: {level: warn}\n" {
		t.Errorf("the configuration of the administrator is now %q, %v", text, err)
	}
	var units int
	err := filepath.WalkDir(filepath.Join(root, "opt/x/lib"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "/usr/bin/piped") || strings.Contains(string(text), "/usr/lib/piped") {
			t.Errorf("%s names a program of another installation", path)
		}
		if strings.HasSuffix(path, ".service") || strings.HasSuffix(path, ".socket") {
			units++
		}
		return err
	})
	if err != nil || units != 8 {
		t.Errorf("%d units, %v, want 8", units, err)
	}
}
