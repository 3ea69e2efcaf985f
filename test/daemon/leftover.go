package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// leftovers returns pid and command of the processes that have home as HOME:
// the daemon, its children, and whatever these have left behind.
func leftovers(home string) []string {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	var found []string
	for _, path := range environs {
		// A process may end at any time, and others are none of this test's.
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(append([]byte{0}, environ...), []byte("\x00HOME="+home+"\x00")) {
			continue
		}
		dir := filepath.Dir(path)
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found = append(found, fmt.Sprintf("%s %s", filepath.Base(dir), strings.ReplaceAll(string(command), "\x00", " ")))
	}
	return found
}
