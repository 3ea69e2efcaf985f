//go:build unix

package client

import (
	"os"
	"syscall"
)

// ownedByMe says whether a file belongs to the user of this process.
func ownedByMe(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
