package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// size is a number of bytes, written as 4194304 or 4MiB.
type size uint64

const (
	kib size = 1 << 10
	mib size = 1 << 20
	gib size = 1 << 30
	tib size = 1 << 40
)

// units goes from large to small, so that a size is written in the largest
// unit that divides it.
var units = []struct {
	name string
	size size
}{{"TiB", tib}, {"GiB", gib}, {"MiB", mib}, {"KiB", kib}}

// String writes the size so that parseSize reads the same number.
func (s size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatUint(uint64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(s), 10)
}

// MarshalText is String, for the YAML encoder.
func (s size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// parseSize reads bytes, or a whole number and one of KiB, MiB, GiB, TiB.
func parseSize(text string) (size, error) {
	number, unit := text, size(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = n, u.size
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n > math.MaxInt64/uint64(unit) {
		return 0, fmt.Errorf("want a size: bytes, or a whole number with KiB, MiB, GiB or TiB, such as 65536 or 4MiB")
	}
	return size(n) * unit, nil
}

// duration is a time.Duration that is written shortly: 1h, not 1h0m0s.
type duration time.Duration

// String writes the duration so that parseDuration reads the same.
func (d duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String, for the YAML encoder.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// parseDuration reads what time.ParseDuration does: a number needs a unit,
// zero does not.
func parseDuration(text string) (duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration with its unit, such as 500ms, 20s or 1h")
	}
	return duration(d), nil
}
