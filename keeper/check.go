package keeper

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Check refuses what would otherwise fail later with an error that does not
// tell what is wrong: a *SpawnError of step "check".
func (s *Spec) Check() error {
	if err := s.check(); err != nil {
		return &SpawnError{Step: "check", Path: s.Path, Err: wrap(ErrInvalid, err)}
	}
	return nil
}

func (s *Spec) check() error {
	switch {
	case !filepath.IsAbs(s.Path):
		return errors.New("the path of the program is not absolute")
	case s.Dir != "" && !filepath.IsAbs(s.Dir):
		return fmt.Errorf("the working directory %q is not absolute", s.Dir)
	case len(s.Args) == 0:
		return errors.New("no arguments, not even the program's name")
	}
	texts := append([]string{s.Path, s.Dir}, s.Args...)
	for _, text := range append(texts, s.Env...) {
		if strings.IndexByte(text, 0) >= 0 {
			return errors.New("a zero byte in an argument, a path or the environment")
		}
	}
	var seen [MaxFD + 1]bool
	for _, f := range s.Files {
		switch {
		case f.FD < 0 || f.FD > MaxFD:
			return fmt.Errorf("descriptor number %d is not within 0 and %d", f.FD, MaxFD)
		case seen[f.FD]:
			return fmt.Errorf("descriptor number %d is given twice", f.FD)
		}
		seen[f.FD] = true
		if f.Source < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(f.Source), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("descriptor %d for %d: %w", f.Source, f.FD, err)
		}
	}
	return s.Attributes.Check()
}
