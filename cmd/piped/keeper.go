package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/piped-dev/piped/keeper"
)

// Who starts the keeper, and what becomes of sessions at the end.
const (
	keeperAuto    = "auto"
	keeperNone    = "none"
	cgroupAuto    = "auto"
	cgroupOff     = "off"
	sessionsEnd   = "end"
	sessionsLeave = "leave"
)

// keeperName is the program that an installation has beside piped.
const keeperName = "piped-keeper"

// connectKeeper finds or starts the keeper of this daemon. It waits for the end
// of a daemon before this one, and says so.
func connectKeeper(ctx context.Context, cfg config, log *slog.Logger, status func(string)) (*keeper.Link, *keeper.Estate, error) {
	options, err := cfg.keeper()
	if err != nil {
		return nil, nil, err
	}
	options.Log = log
	link, estate, err := keeper.Connect(ctx, options, func(pid int) {
		log.Warn("waiting for the daemon before to end", "pid", pid)
		status(fmt.Sprintf("waiting for the daemon before, process %d, to end", pid))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("keeper at %s: %w", options.Socket, err)
	}
	return link, estate, nil
}

func (c config) keeper() (keeper.Options, error) {
	o := keeper.Options{Socket: c.Keeper.Socket, Cgroup: c.Keeper.Cgroup, Version: buildVersion()}
	if o.Socket == "" {
		path, err := parseAddress(c.Listen[0])
		if err != nil {
			return o, err
		}
		o.Socket = path + ".keeper"
		if len(o.Socket) > maxSocketPath {
			return o, fmt.Errorf("keeper.socket: %s has %d bytes, a socket's path has at most %d: set it to a shorter one", o.Socket, len(o.Socket), maxSocketPath)
		}
	}
	if c.Keeper.Program == keeperNone {
		return o, nil
	}
	var err error
	if o.Program, err = keeperProgram(c.Keeper.Program); err != nil {
		return o, err
	}
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	o.Front = append([]string{self}, os.Args[1:]...)
	return o, nil
}

// keeperProgram finds the keeper: beside this program, then in PATH.
func keeperProgram(setting string) (string, error) {
	if setting != keeperAuto {
		return setting, nil
	}
	if self, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(self); err == nil {
			self = resolved
		}
		beside := filepath.Join(filepath.Dir(self), keeperName)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	program, err := exec.LookPath(keeperName)
	if err != nil {
		return "", errors.New("keeper.program: " + keeperName + " is neither beside piped nor in PATH: install it, or set its absolute path")
	}
	return filepath.Abs(program)
}
