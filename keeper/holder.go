package keeper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCommand bounds a command line in bytes; it is for people to read.
const maxCommand = 4096

// A Holder is a process that has a copy of an end.
type Holder struct {
	// Pid is the process id; information only.
	Pid int
	// Command is the first 4096 bytes of the command line, made valid UTF-8, the
	// arguments joined by spaces; the name in brackets if there is none, as for a
	// zombie and in the instant after exec.
	Command string
	// FDs are the numbers at which it has the end, in ascending order.
	FDs []int
}

// scanHolders looks at every descriptor of every process. It reads names only
// and never follows them, so a dead network filesystem cannot hold it up.
func scanHolders(ctx context.Context, ends []End) ([][]Holder, error) {
	holders := make([][]Holder, len(ends))
	wanted := make(map[string][]int, len(ends)) // link to indexes in ends
	for i, end := range ends {
		wanted[end.link()] = append(wanted[end.link()], i)
	}
	pids, err := numericNames("/proc")
	if err != nil {
		return nil, wrap(resource(err), err)
	}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := scanProcess(pid, ends, wanted)
		if err != nil {
			return nil, wrap(resource(err), err)
		}
		if len(found) == 0 {
			continue
		}
		command := commandOf(pid)
		for i, fds := range found {
			holders[i] = append(holders[i], Holder{Pid: pid, Command: command, FDs: fds})
		}
	}
	return holders, nil
}

// scanProcess returns the descriptors that process pid has of each end, by the
// end's index. A process that is gone, or that we may not see, has none.
func scanProcess(pid int, ends []End, wanted map[string][]int) (map[int][]int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := numericNames(dir)
	if resource(err) != nil {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	var found map[int][]int
	var buf [64]byte // longer than any link we look for
	for _, fd := range fds {
		n, err := unix.Readlink(dir+"/"+strconv.Itoa(fd), buf[:])
		if err != nil {
			continue // closed meanwhile
		}
		for _, i := range wanted[string(buf[:n])] {
			kind := ends[i].Kind
			if kind != Socket {
				if kind, err = pipeKindOf(pid, fd); resource(err) != nil {
					return nil, err
				}
			}
			if err != nil || !kind.matches(ends[i].Kind) {
				continue
			}
			if found == nil {
				found = make(map[int][]int)
			}
			found[i] = append(found[i], fd)
		}
	}
	return found, nil
}

// pipeKindOf returns which end of its pipe a descriptor of a process is.
func pipeKindOf(pid, fd int) (EndKind, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if octal, found := strings.CutPrefix(line, "flags:"); found {
			flags, err := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
			if err != nil {
				return 0, err
			}
			return pipeKind(int(flags)), nil
		}
	}
	return 0, fmt.Errorf("no flags in fdinfo of descriptor %d of process %d", fd, pid)
}

// commandOf returns the command line of a process, for people to read.
func commandOf(pid int) string {
	line := strings.TrimRight(readStart(fmt.Sprintf("/proc/%d/cmdline", pid)), "\x00")
	if line != "" {
		return strings.ToValidUTF8(strings.ReplaceAll(line, "\x00", " "), "\uFFFD")
	}
	name := strings.TrimSuffix(readStart(fmt.Sprintf("/proc/%d/comm", pid)), "\n")
	return "[" + strings.ToValidUTF8(name, "\uFFFD") + "]"
}

// readStart returns the first maxCommand bytes of a file, or nothing if the
// process is gone.
func readStart(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	var text bytes.Buffer
	_, _ = io.CopyN(&text, file, maxCommand)
	return text.String()
}

// numericNames returns the names in dir that are numbers, in ascending order.
func numericNames(dir string) ([]int, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	names, err := file.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	numbers := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
