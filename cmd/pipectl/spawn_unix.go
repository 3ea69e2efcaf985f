//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/piped-dev/piped/client"
)

const (
	// spawnTimeout is how long a new daemon may take to answer.
	spawnTimeout = 10 * time.Second
	// spawnInterval is how often it is asked.
	spawnInterval = 20 * time.Millisecond
	// idleExit is how long it stays without sessions.
	idleExit = "60s"
	// logLines is how much of its log is shown when it dies.
	logLines = 5
)

// spawnDaemon starts a daemon that outlives us, unless another pipectl has just
// done so, and returns its address once it answers.
func spawnDaemon(ctx context.Context, explicit string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, spawnTimeout, fmt.Errorf("no answer within %v", spawnTimeout))
	defer cancel()
	dir, err := stateDirectory()
	if err != nil {
		return "", err
	}
	unlock, err := lockSpawn(ctx, filepath.Join(dir, "spawn.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if addr, err := client.FindAddress(ctx, explicit); err == nil {
		return addr, nil
	}
	path, err := client.SocketPath(client.Candidates(explicit)[0])
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	program, err := daemonProgram()
	if err != nil {
		return "", err
	}
	return startDaemon(ctx, program, "unix://"+path, filepath.Join(dir, "piped.log"))
}

// startDaemon starts the program and waits until it answers at addr.
func startDaemon(ctx context.Context, program, addr, logPath string) (string, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = log.Close() }()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	// Not bound to ctx: the daemon outlives this command.
	cmd := exec.Command(program, "--listen", addr, "--idle-exit", idleExit)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keepDescriptors(); err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", program, err)
	}
	died := make(chan struct{})
	// It ends with us or with the daemon.
	go func() {
		_ = cmd.Wait()
		close(died)
	}()
	ticker := time.NewTicker(spawnInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := client.FindAddress(ctx, addr); err == nil {
				return addr, nil
			}
		case <-died:
			return "", fmt.Errorf("%s ended at once (%v); its log %s says: %s", program, cmd.ProcessState, logPath, lastLines(log, begin))
		case <-ctx.Done():
			return "", fmt.Errorf("%s, process %d: %w; its log %s says: %s", program, cmd.Process.Pid, context.Cause(ctx), logPath, lastLines(log, begin))
		}
	}
}

// keepDescriptors keeps what our caller has open, as a pipe or a lock, from the
// daemon, which would hold it open for long.
func keepDescriptors() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// stateDirectory returns the folder of the log and the lock, and makes it.
func stateDirectory() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		base = filepath.Join(home, ".local", "state")
	}
	dir := filepath.Join(base, "piped")
	return dir, os.MkdirAll(dir, 0o700)
}

// daemonProgram finds piped: beside pipectl, then in PATH.
func daemonProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(self); err == nil {
			self = resolved
		}
		beside := filepath.Join(filepath.Dir(self), "piped")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	program, err := exec.LookPath("piped")
	if err != nil {
		return "", errors.New("--spawn needs piped, and it is neither beside pipectl nor in PATH")
	}
	return filepath.Abs(program)
}

// lockSpawn lets one pipectl at a time start a daemon.
func lockSpawn(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(spawnInterval)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = file.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("another pipectl is starting a daemon: %w", context.Cause(ctx))
		}
	}
}

// lastLines returns the last lines that were written to the log since begin.
func lastLines(log *os.File, begin int64) string {
	text, err := io.ReadAll(io.NewSectionReader(log, begin, 64<<10))
	if err != nil || len(text) == 0 {
		return "nothing"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-logLines, 0):], "; ")
}
