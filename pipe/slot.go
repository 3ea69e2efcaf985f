package pipe

import (
	"encoding/binary"

	"github.com/piped-dev/piped/failpoint"
)

// Release gives the slot of a pipe back, for the next pipe. Both ends must be
// closed, and nothing that outlives this process may name the slot any more: it
// still looks like a pipe's.
func (c *Control) Release(slot int) {
	if c == nil || slot < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, slot)
}

// ReleaseAllBut is Release for each slot but those of the pipes that there are, for
// whoever has opened the file: no other is named by anything.
func (c *Control) ReleaseAllBut(used map[int]bool) {
	for slot := range c.Pipes() {
		if !used[slot] {
			c.Release(slot)
		}
	}
}

// describeAnew makes the slot of a pipe that is gone that of another one. Its first
// word is never 0, or the slots behind it would be lost to whoever opens the file;
// whoever opens it in the middle finds a slot that nothing names.
func (c *Control) describeAnew(slot int, d *description, keep func(slot int) error) error {
	if keep != nil {
		if err := keep(slot); err != nil {
			return err
		}
	}
	b, words := d.encode(), c.slot(slot)
	clear(words[8:])
	copy(words[8:descriptionSize], b[8:])
	failpoint.Hit("control.mid-reuse")
	inUse(words).Store(binary.NativeEndian.Uint64(b))
	return nil
}
