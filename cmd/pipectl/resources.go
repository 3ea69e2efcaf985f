package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/pflag"
)

// resourceFlags are limits of a new session.
type resourceFlags struct {
	memoryMax, memoryHigh string
	cpus                  string
	cpuWeight, ioWeight   uint32
	pidsMax               uint64
}

func (r *resourceFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&r.memoryMax, "memory-max", "", "most memory of the session, as 512M: above `SIZE` the kernel kills the program")
	flags.StringVar(&r.memoryHigh, "memory-high", "", "memory of the session above which it is slowed down, as `SIZE`")
	flags.StringVar(&r.cpus, "cpus", "", "`CPUS` that the session may use at a time, as 1.5")
	flags.Uint32Var(&r.cpuWeight, "cpu-weight", 0, "`share` of the CPUs where they are scarce, 1 to 10000 (else 100)")
	flags.Uint64Var(&r.pidsMax, "pids-max", 0, "most processes and threads of the session")
	flags.Uint32Var(&r.ioWeight, "io-weight", 0, "`share` of the disks where they are busy, 1 to 10000 (else 100)")
}

// names are the flags' names; none is for a session that is there already.
func (*resourceFlags) names() []string {
	return []string{"memory-max", "memory-high", "cpus", "cpu-weight", "pids-max", "io-weight"}
}

// resources returns the limits; nil where there are none.
func (r *resourceFlags) resources() (*pipedv1.Resources, error) {
	if *r == (resourceFlags{}) {
		return nil, nil
	}
	m := &pipedv1.Resources{CpuWeight: r.cpuWeight, PidsMax: r.pidsMax, IoWeight: r.ioWeight}
	for _, one := range []struct {
		flag, text string
		to         *uint64
	}{{"memory-max", r.memoryMax, &m.MemoryMax}, {"memory-high", r.memoryHigh, &m.MemoryHigh}} {
		if one.text == "" {
			continue
		}
		n, ok := parseBytes(one.text)
		if !ok {
			return nil, usageError("--%s %q: give bytes, or a number with K, M, G or T, as 512M", one.flag, one.text)
		}
		*one.to = n
	}
	if r.cpus != "" {
		n, err := strconv.ParseFloat(r.cpus, 64)
		if err != nil || n < 0.01 || n > 1e6 {
			return nil, usageError("--cpus %q: give a number from 0.01 on, as 1.5", r.cpus)
		}
		m.CpuMaxMillis = uint32(n*1000 + 0.5)
	}
	return m, nil
}

// parseBytes reads a number of bytes; a letter multiplies by powers of 1,024.
func parseBytes(text string) (n uint64, ok bool) {
	digits, shift := text, 0
	if i := strings.IndexByte("KMGT", text[len(text)-1]&^0x20); i >= 0 {
		digits, shift = text[:len(text)-1], 10*(i+1)
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || n<<shift>>shift != n {
		return 0, false
	}
	return n << shift, true
}

// checkResources refuses a daemon that would not see the limits.
func checkResources(ctx context.Context, c *client.Client, r *pipedv1.Resources) error {
	if r == nil {
		return nil
	}
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(info.GetFeatures(), "session/resources") {
		return fmt.Errorf("this daemon is too old for --%s: it does not have %q", strings.Join((*resourceFlags)(nil).names(), ", --"), "session/resources")
	}
	return nil
}

// resourcesText says which limits a session has.
func resourcesText(r *pipedv1.Resources) string {
	var all []string
	say := func(there bool, format string, args ...any) {
		if there {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	say(r.GetMemoryMax() > 0, "memory %s", memoryText(int64(min(r.GetMemoryMax(), 1<<62))))
	say(r.GetMemoryHigh() > 0, "slowed above %s", memoryText(int64(min(r.GetMemoryHigh(), 1<<62))))
	say(r.GetCpuMaxMillis() > 0, "%g CPUs", float64(r.GetCpuMaxMillis())/1000)
	say(r.GetCpuWeight() > 0, "CPU weight %d", r.GetCpuWeight())
	say(r.GetPidsMax() > 0, "%d processes", r.GetPidsMax())
	say(r.GetIoWeight() > 0, "IO weight %d", r.GetIoWeight())
	return strings.Join(all, ", ")
}

// sessionUsageText says what a session uses.
func sessionUsageText(u *pipedv1.SessionUsage) string {
	text := fmt.Sprintf("cpu %.2fs, %s", u.GetCpuTime().AsDuration().Seconds(), countText(u.GetProcesses(), "task"))
	if u.Memory != nil {
		text += ", memory " + memoryText(int64(min(u.GetMemory(), 1<<62)))
	}
	if u.MemoryPeak != nil {
		text += ", peak " + memoryText(int64(min(u.GetMemoryPeak(), 1<<62)))
	}
	if t := u.GetThrottledTime().AsDuration(); t > 0 {
		text += fmt.Sprintf(", throttled for %.2fs", t.Seconds())
	}
	if n := u.GetOomKills(); n > 0 {
		text += fmt.Sprintf(", %d kills for want of memory", n)
	}
	return text
}

// cgroupsText says what the keeper does with cgroups.
func cgroupsText(c *pipedv1.Cgroups) string {
	switch {
	case c == nil:
		return "none"
	case !c.GetUsed():
		return "none: " + c.GetReason()
	case len(c.GetControllers()) == 0:
		return "one a process, without controllers: a tree is killed for certain, and there are no limits of sessions"
	default:
		return "one a process, controllers " + strings.Join(c.GetControllers(), " ")
	}
}
