package exact

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A verdict counts what the histories of a row say. The zero value is ready.
type verdict struct {
	sent, acked, delivered, received uint64
	// The six that must be 0.
	lost, duplicated, reordered, torn, phantom, gaps uint64
	maxPause                                         time.Duration
	latencies                                        []time.Duration
	// complaints are the first faults, for people.
	complaints []string
}

// maxComplaints bounds what is shown of a run in which everything is wrong.
const maxComplaints = 20

// judge adds one history.
func (v *verdict) judge(h *history) {
	for _, w := range h.writers {
		v.sent += w.sent
		v.acked += w.acked
	}
	j := judging{v: v, h: h, seen: map[string]map[uint64]bool{}, highest: map[string]uint64{}}
	for _, o := range h.got {
		j.take(o)
	}
	j.missing()
}

// A judging is the state of one history that is being judged.
type judging struct {
	v       *verdict
	h       *history
	seen    map[string]map[uint64]bool
	highest map[string]uint64
	// next is the position that must come now; 0 while none was told.
	next uint64
	// excused is how many messages were announced as dropped.
	excused uint64
	last    int64
}

func (j *judging) take(o observation) {
	if o.gap != 0 {
		if j.next != 0 && o.gap > j.next {
			j.excused += o.gap - j.next
		}
		j.next = o.gap
		return
	}
	fault := j.body(o)
	if o.position == 0 {
		return
	}
	switch {
	case j.next == 0 || o.position == j.next:
	case o.position > j.next:
		j.complain(&j.v.gaps, "position %d after %d", o.position, j.next-1)
	case !fault: // what is wrong with the body was counted there
		j.complain(&j.v.reordered, "position %d after %d", o.position, j.next-1)
	}
	j.next = max(j.next, o.position+1)
}

// body looks at a message and says whether something is wrong with it.
func (j *judging) body(o observation) (fault bool) {
	if o.cut {
		return false
	}
	if j.h.reader == byChild {
		j.v.delivered++
	} else {
		j.v.received++
	}
	s, err := readStamp(o.body)
	if err != nil {
		return j.complain(&j.v.torn, "torn: %.80q", o.body)
	}
	w := j.h.writers[s.writer]
	if s.session != j.h.session || s.pipe != j.h.pipe || s.direction != j.h.direction || w == nil || s.number == 0 || s.number > w.sent {
		return j.complain(&j.v.phantom, "nobody sent %.80q here", o.body)
	}
	j.time(o, s)
	if j.seen[s.writer] == nil {
		j.seen[s.writer] = map[uint64]bool{}
	}
	switch seen := j.seen[s.writer]; {
	case seen[s.number]:
		fault = j.complain(&j.v.duplicated, "%s/%d again", s.writer, s.number)
	case s.number < j.highest[s.writer]:
		fault = j.complain(&j.v.reordered, "%s/%d after %d", s.writer, s.number, j.highest[s.writer])
	}
	j.seen[s.writer][s.number] = true
	j.highest[s.writer] = max(j.highest[s.writer], s.number)
	return fault
}

func (j *judging) time(o observation, s stamp) {
	if o.at == 0 {
		return
	}
	j.v.latencies = append(j.v.latencies, time.Duration(o.at-s.at))
	if j.last != 0 {
		j.v.maxPause = max(j.v.maxPause, time.Duration(o.at-j.last))
	}
	j.last = o.at
}

// missing counts what was sent and never came: lost when it was acknowledged and
// the reader has everything, a gap when later messages of the same writer came.
func (j *judging) missing() {
	for name, w := range j.h.writers {
		until := j.highest[name]
		if j.h.complete {
			until = max(until, w.acked)
		}
		for n := uint64(1); n <= until; n++ {
			switch {
			case j.seen[name][n]:
			case j.excused > 0:
				j.excused--
			case n <= w.acked:
				j.complain(&j.v.lost, "%s/%d was acknowledged and never came", name, n)
			default:
				j.complain(&j.v.gaps, "%s/%d never came, %d did", name, n, j.highest[name])
			}
		}
	}
}

// complain counts a fault, keeps the first ones, and returns true.
func (j *judging) complain(count *uint64, format string, args ...any) bool {
	*count++
	if len(j.v.complaints) < maxComplaints {
		where := fmt.Sprintf("%s/%s/%s: ", j.h.session, j.h.pipe, j.h.direction)
		j.v.complaints = append(j.v.complaints, where+fmt.Sprintf(format, args...))
	}
	return true
}

// faults is the sum of the six.
func (v *verdict) faults() uint64 {
	return v.lost + v.duplicated + v.reordered + v.torn + v.phantom + v.gaps
}

// String returns the line of a row, without the row's name.
func (v *verdict) String() string {
	slices.Sort(v.latencies)
	return fmt.Sprintf("sent=%d acked=%d delivered=%d received=%d lost=%d duplicated=%d reordered=%d torn=%d phantom=%d unexplained_gaps=%d max_pause_ms=%d p50/p99/p999_us=%d/%d/%d",
		v.sent, v.acked, v.delivered, v.received, v.lost, v.duplicated, v.reordered, v.torn, v.phantom, v.gaps,
		v.maxPause.Milliseconds(), quantile(v.latencies, 0.5).Microseconds(), quantile(v.latencies, 0.99).Microseconds(), quantile(v.latencies, 0.999).Microseconds())
}

// quantile returns the value below which a share q of the sorted values lies.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// explain returns the complaints for a failure message.
func (v *verdict) explain() string { return strings.Join(v.complaints, "\n") }
