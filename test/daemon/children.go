package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Children returns the process ids of the children of sessions, zombies too: the
// children of the keeper but for its own helper and the daemons that it has
// started.
func (d *Daemon) Children() []int {
	d.t.Helper()
	pid := d.KeeperPID()
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		d.t.Errorf("the keeper is gone: %v", err)
		return nil
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		d.t.Error(err)
	}
	var all []int
	for _, path := range lists {
		list, _ := os.ReadFile(path) // the thread may end at any time
		for field := range strings.FieldsSeq(string(list)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				d.t.Error(err)
			}
			program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
			if own := filepath.Dir(program) == d.Bin; err != nil || !own {
				all = append(all, child)
			}
		}
	}
	return all
}
