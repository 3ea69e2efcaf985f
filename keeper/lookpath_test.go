package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLookPath(t *testing.T) {
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"bin/tool":      0o755,
		"other/tool":    0o755,
		"plain/tool":    0o644,
		"plain/only":    0o644,
		"here":          0o755,
		"dirs/tool/sub": 0o755,
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	bin, other, plain, dirs := root+"/bin", root+"/other", root+"/plain", root+"/dirs"
	for _, test := range []struct {
		name, file, path string
		want             string
		err              error
	}{
		{name: "first in the path", file: "tool", path: bin + ":" + other, want: bin + "/tool"},
		{name: "missing directories are passed over", file: "tool", path: root + "/none:" + other, want: other + "/tool"},
		{name: "what is not executable is passed over", file: "tool", path: plain + ":" + dirs + ":" + other, want: other + "/tool"},
		{name: "only one that is not executable", file: "only", path: bin + ":" + plain, err: ErrNotExecutable},
		{name: "only a directory", file: "tool", path: dirs, err: ErrNotExecutable},
		{name: "not in the path", file: "here", path: bin, err: ErrNotFound},
		{name: "empty path", file: "tool", path: "", err: ErrNotFound},
		{name: "empty entry is the directory", file: "here", path: bin + "::" + other, want: root + "/here"},
		{name: "relative entry", file: "tool", path: "bin", want: bin + "/tool"},
		{name: "relative file", file: "bin/tool", path: other, want: root + "/bin/tool"},
		{name: "dotted file", file: "./here", path: other, want: root + "/./here"},
		{name: "absolute file", file: other + "/tool", path: bin, want: other + "/tool"},
		{name: "absolute file that is missing", file: root + "/none", path: bin, err: ErrNotFound},
		{name: "below a file", file: "here/tool", path: bin, err: ErrNotFound},
		{name: "absolute file that is not executable", file: plain + "/tool", path: bin, err: ErrNotExecutable},
		{name: "a directory", file: bin, path: bin, err: ErrNotExecutable},
		{name: "a device", file: "/dev/null", path: bin, err: ErrNotExecutable},
		{name: "no file", file: "", path: bin, err: ErrNotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := LookPath(test.file, test.path, root)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %q, error %v; want %q, error %v", got, err, test.want, test.err)
			}
		})
	}
	t.Run("relative directory", func(t *testing.T) {
		if _, err := LookPath("tool", bin, "."); !errors.Is(err, ErrInvalid) {
			t.Errorf("error %v, want %v", err, ErrInvalid)
		}
	})
}
