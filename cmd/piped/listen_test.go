package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// socketDirectory returns a private directory with a name short enough for
// sockets.
func socketDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "piped") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// listen locks and opens addresses. The caller closes the result.
func listen(addresses []string) (*sockets, error) {
	s, err := lockAddresses(addresses)
	if err != nil {
		return nil, err
	}
	if err := s.listen(nil, nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// mustListen opens addresses until the test ends.
func mustListen(t *testing.T, addresses ...string) *sockets {
	t.Helper()
	s, err := listen(addresses)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// wantRefused checks that path cannot be listened at, and that the reason says
// text.
func wantRefused(t *testing.T, path, text string) {
	t.Helper()
	s, err := listen([]string{"unix://" + path})
	if err == nil {
		t.Fatalf("listening at %s: %v", path, s.Close())
	}
	if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %q does not say %q and the address", err, text)
	}
}

func TestSocketIsPrivateWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o177} {
		t.Run(fmt.Sprintf("%03o", umask), func(t *testing.T) {
			old := unix.Umask(umask)
			defer unix.Umask(old)
			dir := filepath.Join(socketDirectory(t), "made")
			path := filepath.Join(dir, "s.sock")
			mustListen(t, "unix://"+path)
			for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + ".lock": 0o600} {
				info, err := os.Lstat(name)
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got != want {
					t.Errorf("%s has mode %04o, want %04o", name, got, want)
				}
			}
			if got := unix.Umask(umask); got != umask {
				t.Errorf("umask is %03o afterwards, want %03o", got, umask)
			}
		})
	}
}

func TestSecondDaemonOnAnAddressIsRefusedWithThePidOfTheFirst(t *testing.T) {
	path := filepath.Join(socketDirectory(t), "s.sock")
	first := mustListen(t, "unix://"+path)
	wantRefused(t, path, fmt.Sprintf("another piped serves it, with pid %d", os.Getpid()))

	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first is gone: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustListen(t, "unix://"+path)
}

func TestRefusedSecondAddressFreesTheFirst(t *testing.T) {
	dir := socketDirectory(t)
	mustListen(t, "unix://"+dir+"/taken.sock")
	if s, err := listen([]string{"unix://" + dir + "/free.sock", "unix://" + dir + "/taken.sock"}); err == nil {
		t.Fatal("two daemons have the same socket", s.Close())
	}
	if _, err := os.Lstat(dir + "/free.sock"); !os.IsNotExist(err) {
		t.Errorf("the first socket is still there: %v", err)
	}
	mustListen(t, "unix://"+dir+"/free.sock")
}

func TestLocksAndSocketsAreNotInherited(t *testing.T) {
	s := mustListen(t, "unix://"+socketDirectory(t)+"/s.sock")
	for _, lock := range s.locks {
		flags, err := unix.FcntlInt(lock.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the lock has descriptor flags %#x, %v", flags, err)
		}
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(socketDirectory(t), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	mustListen(t, "unix://"+path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestSocketOfALivingStrangerIsLeftAlone(t *testing.T) {
	path := filepath.Join(socketDirectory(t), "s.sock")
	stranger, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stranger.Close(); err != nil {
			t.Error(err)
		}
	}()
	wantRefused(t, path, "another program")
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the stranger lost its socket: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(socketDirectory(t), "s.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, path, "is not a socket")
	if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

func TestLockThatIsALinkIsRefused(t *testing.T) {
	dir := socketDirectory(t)
	target := filepath.Join(dir, "precious")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, dir+"/s.sock.lock"); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, dir+"/s.sock", "s.sock.lock")
	if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

func TestDirectoriesThatOthersControlAreRefused(t *testing.T) {
	tests := []struct {
		name     string
		prepare  func(dir string) error
		rootOnly bool // an ordinary user cannot bring this about
		want     string
	}{
		{"writable by all", func(dir string) error { return os.Chmod(dir, 0o777) }, false, "can be written by others"},
		{"writable by all, sticky", func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, false, "can be written by others"},
		{"writable by another group", func(dir string) error {
			if err := os.Chown(dir, -1, 65534); err != nil {
				return err
			}
			return os.Chmod(dir, 0o770)
		}, true, "can be written by others"},
		{"owned by another user", func(dir string) error { return os.Chown(dir, 65534, -1) }, true, "belongs to user 65534"},
		{"link of another user", func(dir string) error {
			if err := os.Rename(dir, dir+".real"); err != nil {
				return err
			}
			if err := os.Symlink(dir+".real", dir); err != nil {
				return err
			}
			return os.Lchown(dir, 65534, 65534)
		}, true, "belongs to user 65534"},
		{"a file", func(dir string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		}, false, "is not a directory"},
		{"parent missing", os.Remove, false, ""},
	}
	for _, tt := range tests {
		if tt.rootOnly && os.Geteuid() != 0 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(socketDirectory(t), "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := tt.prepare(dir); err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				wantRefused(t, dir+"/deeper/s.sock", "create it first")
				return
			}
			wantRefused(t, dir+"/s.sock", tt.want)
		})
	}
}

func TestDirectoriesOfOnesOwnAreTaken(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"private": 0o700, "readable": 0o755, "own group": 0o775} {
		t.Run(name, func(t *testing.T) {
			dir := socketDirectory(t)
			if err := os.Chown(dir, -1, os.Getegid()); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			mustListen(t, "unix://"+dir+"/s.sock")
		})
	}
}
