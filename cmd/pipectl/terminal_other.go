//go:build !linux && !darwin

package main

import (
	"errors"
	"os"
	"syscall"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// A terminal is the local terminal, in the mode that it had: here the detach keys
// come through when Enter is pressed after them.
type terminal struct{}

func newTerminal(*os.File, []byte) (*terminal, error) { return &terminal{}, nil }

func (t *terminal) restore() error { return nil }

func (t *terminal) suspend() error { return nil }

// suspendSignal does not exist here.
const suspendSignal = syscall.Signal(-1)

func newRawTerminal(*os.File) (*terminal, error) { return &terminal{}, nil }

func windowSize(*os.File) (*pipedv1.TerminalSize, error) { return nil, errors.ErrUnsupported }

// resizeSignal does not exist here.
const resizeSignal = syscall.Signal(-1)
