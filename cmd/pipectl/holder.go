package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"strings"
)

// noLease says that a right ends with its stream: who kills a pipectl can go on
// with the next one at once.
const noLease = -1

// maxHolder keeps a name below what the daemon takes, whatever a host is called.
const maxHolder = 120

// clientName returns a new name for one writer or consumer, by which others can
// see whom to ask: USER@HOST:PID-XXXX.
func clientName() string {
	name := "?"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	tail := fmt.Sprintf(":%d-%s", os.Getpid(), strings.ToLower(rand.Text()[:4]))
	head := strings.ToValidUTF8(name+"@"+host, "?")
	return strings.ToValidUTF8(head[:min(len(head), maxHolder-len(tail))], "") + tail
}
