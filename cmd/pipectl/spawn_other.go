//go:build !linux && !darwin

package main

import (
	"context"
	"errors"
)

// spawnDaemon refuses: the daemon does not run here.
func spawnDaemon(context.Context, string) (string, error) {
	return "", errors.New("--spawn is not possible on this system: give --addr of a daemon elsewhere, forwarded with ssh -L")
}
