package layers

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tiedToAThread matches the signal that a child gets when the thread that has
// forked it ends. Threads end at any time, and an exec of the parent drops it.
var tiedToAThread = regexp.MustCompile(`(?i)pdeath_?sig`)

func TestNothingThatOwnsChildrenUsesOsExecOrPdeathsig(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"failpoint", "keeper", "pipe", "server", "session"} {
		packages := list(t, "linux", "./"+folder+"/...")
		if len(packages) == 0 {
			t.Errorf("%s/ holds no package", folder)
		}
		for _, p := range packages {
			if slices.Contains(p.Imports, "os/exec") {
				t.Errorf("%s imports os/exec, which waits for children that are not its own", p.ImportPath)
			}
		}
	}
	seen := 0
	for _, folder := range []string{"cmd", "failpoint", "keeper", "pipe", "server", "session"} {
		err := filepath.WalkDir(filepath.Join(repositoryRoot, folder), func(name string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			if at := tiedToAThread.Find(text); at != nil {
				t.Errorf("%s uses %s", name, at)
			}
			seen++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen == 0 || !tiedToAThread.MatchString("PR_SET_PDEATHSIG") || !tiedToAThread.MatchString("Pdeathsig: 9") {
		t.Errorf("%d files were looked at, with %v", seen, tiedToAThread)
	}
}
