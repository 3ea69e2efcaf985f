//go:build unix

package client

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestSharedDirectoryMustBePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "piped")
	if err := checkPrivate(dir); err != nil {
		t.Errorf("a missing directory: got %v, want nil", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(dir); err != nil {
		t.Errorf("mode 0700: got %v, want nil", err)
	}
	for _, mode := range []os.FileMode{0o755, 0o777, 0o750, 0o500} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := checkPrivate(dir); !errors.Is(err, ErrNotTrusted) {
			t.Errorf("mode %o: got %v, want ErrNotTrusted", mode, err)
		}
	}
	link := dir + "-link"
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(link); !errors.Is(err, ErrNotTrusted) {
		t.Errorf("a symbolic link: got %v, want ErrNotTrusted", err)
	}
}

func TestSharedDirectoryOfAnotherUserIsRefused(t *testing.T) {
	dir := t.TempDir()
	info, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !ownedByMe(info) {
		t.Error("my own directory is not mine")
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("Sys is %T", info.Sys())
	}
	stat.Uid++
	if ownedByMe(info) {
		t.Error("another user's directory is mine")
	}
}
