package layers

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"unicode/utf8"
)

// repositoryRoot is where go.mod is, from here.
const repositoryRoot = "../.."

// outside matches paths of a machine that somebody works on. A clean clone has none of them, so naming one is needing it.
var outside = regexp.MustCompile(`\.\./shared\b|(?:^|[^\w.*{}-])/work\b/`)

// notOurs are folders that are built or fetched, not part of the repository.
var notOurs = map[string]bool{".git": true, ".tmp": true, "bin": true, "node_modules": true, "__pycache__": true}

func TestNothingNamesAPlaceOutsideTheRepository(t *testing.T) {
	t.Parallel()
	root := os.DirFS(repositoryRoot)
	seen := 0
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && notOurs[entry.Name()]:
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return nil
		}
		seen++
		for i, line := range bytes.Split(text, []byte("\n")) {
			if at := outside.Find(line); at != nil {
				t.Errorf("%s:%d names %q, which a clean clone does not have", filepath.ToSlash(name), i+1, at)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Errorf("no file was looked at in %s", repositoryRoot)
	}
}

func TestPlacesOutsideAreRecognized(t *testing.T) {
	t.Parallel()
	// Spelled in two parts: this file is looked through as well.
	for text, want := range map[string]bool{
		"see .." + "/shared/design.md":     true,
		"cd /" + "work/main":               true,
		"open(\"/" + "work/x\")":           true,
		"../sharedmemory":                  false,
		"docs/" + "work/plan.md":           false,
		"https://example.org/workers/list": false,
		"a framework / workflow":           false,
	} {
		if got := outside.MatchString(text); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}
