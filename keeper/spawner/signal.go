package spawner

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// handleIgnored makes Go handle every signal that this process ignores, by
// sending it to c, which must have room for one and is never read. An ignored
// signal stays ignored in a child; a handled one is set to its default action
// by fork and exec. signal.Stop(c) undoes it.
func handleIgnored(c chan os.Signal) error {
	ignored, err := ignoredSignals()
	if err != nil {
		return err
	}
	for _, sig := range ignored {
		signal.Notify(c, sig)
	}
	// Go leaves the signals that belong to the C library (32 to 34) alone.
	if ignored, err = ignoredSignals(); err != nil {
		return err
	}
	if len(ignored) > 0 {
		return fmt.Errorf("signals %v stay ignored", ignored)
	}
	return nil
}

// ignoredSignals asks the kernel which signals this process ignores.
// os/signal.Ignored does not know of SIGTSTP, SIGTTIN, SIGTTOU and SIGCONT.
func ignoredSignals() ([]syscall.Signal, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		hex, found := strings.CutPrefix(line, "SigIgn:")
		if !found {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, err
		}
		var list []syscall.Signal
		for i := range 64 {
			if mask&(1<<i) != 0 {
				list = append(list, syscall.Signal(i+1))
			}
		}
		return list, nil
	}
	return nil, errors.New("no SigIgn in /proc/self/status")
}
