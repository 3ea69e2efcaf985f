package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// LookPath returns the absolute path of a program as a process with this PATH
// and this absolute working directory would find it. A file with a slash is
// taken relative to dir. Otherwise the directories of path are searched in
// order; an empty or relative one is taken relative to dir, as shells do. An
// empty path finds nothing.
//
// The error is a *SpawnError of step "lookup". It wraps [ErrNotFound], or
// [ErrNotExecutable] if all that was found cannot be executed.
func LookPath(file, path, dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", &SpawnError{Step: "lookup", Path: file, Err: wrap(ErrInvalid, errors.New("the directory is not absolute"))}
	}
	if strings.Contains(file, "/") {
		candidate := under(dir, file)
		if err := executable(candidate); err != nil {
			return "", &SpawnError{Step: "lookup", Path: candidate, Err: err}
		}
		return candidate, nil
	}
	failure := &SpawnError{Step: "lookup", Path: file, Err: fmt.Errorf("%w in PATH %q", ErrNotFound, path)}
	if file == "" {
		return "", failure
	}
	for _, entry := range filepath.SplitList(path) {
		candidate := under(dir, entry) + "/" + file
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		// The first one that cannot be executed says more than "not found".
		if errors.Is(err, ErrNotExecutable) && !errors.Is(failure, ErrNotExecutable) {
			failure = &SpawnError{Step: "lookup", Path: candidate, Err: err}
		}
	}
	return "", failure
}

// Touch has the kernel read the beginning of a file, or open a directory, so that
// where its file system hangs the caller does, and not the one process that forks. A
// file that may not be read is left to the start to find out.
func Touch(path string) {
	// A FIFO would wait for a writer.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
		_, _ = unix.Pread(fd, make([]byte, 256), 0) // what exec looks at first, BINPRM_BUF_SIZE
	}
}

// under returns name relative to dir. It does not clean the result: "a/../b"
// is not "b" where a is a symbolic link.
func under(dir, name string) string {
	switch {
	case name == "":
		return dir
	case filepath.IsAbs(name):
		return name
	}
	return strings.TrimSuffix(dir, "/") + "/" + name
}

// executable returns nil if path is a file that we may execute.
func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		err = errors.Unwrap(err)
		if missing(err) {
			return wrap(ErrNotFound, err)
		}
		return wrap(ErrNotExecutable, err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return wrap(ErrNotExecutable, syscall.EISDIR)
	case !mode.IsRegular():
		return wrap(ErrNotExecutable, syscall.EACCES)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return wrap(ErrNotExecutable, err)
	}
	return nil
}

// missing tells whether err says that a file is not there.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
