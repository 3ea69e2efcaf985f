package main

import (
	"errors"
	"fmt"

	"github.com/piped-dev/piped/pipe"
)

// Where logs are kept.
const (
	durabilityAuto   = "auto"
	durabilityKernel = "kernel"
	durabilityMemory = "memory"
)

// A durability is where logs are kept and why.
type durability struct {
	kernel bool
	reason string
	checks []pipe.Check
}

// durable tries out what the kernel can do, and decides by the setting. It
// returns an error where the setting demands what the kernel cannot do.
func durable(setting string) (durability, error) {
	d := durability{checks: pipe.SelfTest()}
	var errs []error
	for _, c := range d.checks {
		if c.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Name, c.Err))
		}
	}
	failed := errors.Join(errs...)
	switch {
	case setting == durabilityMemory:
		d.reason = "durability is set to memory"
	case failed == nil:
		d.kernel, d.reason = true, "the kernel passes all checks"
	case setting == durabilityKernel:
		return d, fmt.Errorf("durability: %q: this kernel cannot do it: %w", setting, failed)
	default:
		d.reason = fmt.Sprintf("this kernel cannot do better: %v", failed)
	}
	return d, nil
}
