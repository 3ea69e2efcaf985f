package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/piped-dev/piped/keeper/wire"
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

// Holders returns, for each end in the order given, the processes in the
// whole system that have it open, lowest process id first. Processes that
// neither the keeper nor this process may look into are left out, and so are copies that are in flight inside a socket, the
// keeper itself and its spawner. This process is among them.
func (l *Link) Holders(ctx context.Context, ends []End) ([][]Holder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	switch l.state {
	case stateEnded:
		l.mu.Unlock()
		return nil, ErrClosed
	case stateUp:
		if found, err := l.askHolders(ends); !errors.Is(err, errDown) {
			return found, err
		}
	default:
		l.mu.Unlock()
	}
	return ScanHolders(ctx, ends)
}

// askHolders asks the keeper, which may look into other processes than this one may, and adds what this process has. It is called with
// the lock held, and releases it.
func (l *Link) askHolders(ends []End) ([][]Holder, error) {
	told := make([]wire.PipeEnd, len(ends))
	for i, e := range ends {
		told[i] = wire.PipeEnd{Device: e.Device, Inode: e.Inode, Kind: uint8(e.Kind)}
	}
	blob, err := wire.NewBlob(wire.EncodeEnds(told))
	if err != nil {
		l.mu.Unlock()
		return nil, wrap(resource(err), err)
	}
	defer func() { _ = unix.Close(blob) }()
	r, err := l.call(&wire.Message{Verb: wire.Holders}, blob)
	if err != nil {
		return nil, err
	}
	all, err := wire.DecodeHolders(r.body)
	if err != nil {
		return nil, err
	}
	if len(all) != len(ends) {
		return nil, fmt.Errorf("the keeper tells of %d ends, not %d", len(all), len(ends))
	}
	me := os.Getpid()
	own, err := scanProcess(me, ends, wantedLinks(ends))
	if err != nil {
		return nil, wrap(resource(err), err)
	}
	found := make([][]Holder, len(ends))
	for i, list := range all {
		for _, h := range list {
			if h.Pid != me {
				found[i] = append(found[i], Holder(h))
			}
		}
		if len(own[i]) > 0 {
			at, _ := slices.BinarySearchFunc(found[i], me, func(h Holder, pid int) int { return h.Pid - pid })
			found[i] = slices.Insert(found[i], at, Holder{Pid: me, Command: commandOf(me), FDs: own[i]})
		}
	}
	return found, nil
}

// wantedLinks returns the indexes of ends by their links.
func wantedLinks(ends []End) map[string][]int {
	wanted := make(map[string][]int, len(ends))
	for i, end := range ends {
		wanted[end.link()] = append(wanted[end.link()], i)
	}
	return wanted
}

// ScanHolders looks at every descriptor of every process but those of the ids in skip. It reads names only
// and never follows them, so a dead network filesystem cannot hold it up. It sees what this process may see.
func ScanHolders(ctx context.Context, ends []End, skip ...int) ([][]Holder, error) {
	holders := make([][]Holder, len(ends))
	wanted := wantedLinks(ends)
	pids, err := numericNames("/proc")
	if err != nil {
		return nil, wrap(resource(err), err)
	}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if slices.Contains(skip, pid) {
			continue
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
			if kind != Socket && kind != TerminalSide {
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
