package pipe

import (
	"fmt"
	"math/rand/v2"
)

// The journal has two keys, and is changed in numbered steps: odd ones replace what
// is under the first, even ones replace what is under the second or remove it.
// Whoever knows the number of the last step knows everything.

// journalValue is what step n puts.
func journalValue(p *pattern, n uint64) []byte {
	b := make([]byte, 8+mix(p.seed^n)%24_000)
	p.fill(b, n, 0)
	return b
}

// journalAfter is what is in the journal after change n.
func journalAfter(p *pattern, n uint64) map[string]string {
	all := make(map[string]string)
	if n > 0 {
		all["first"] = string(journalValue(p, n-(n+1)%2))
	}
	if even := n / 2 * 2; even > 0 && even%8 != 0 {
		all["second"] = string(journalValue(p, even))
	}
	return all
}

func (d *crashDaemon) journalPattern() (pattern, error) {
	return newPattern(&d.role.Scene, d.role.Seed+2)
}

// journals makes changes until stop is closed.
func (d *crashDaemon) journals(stop <-chan struct{}) error {
	p, err := d.journalPattern()
	if err != nil {
		return err
	}
	j, w := d.control.Journal(), d.words
	for n := w.kept.Load() + 1; ; n++ {
		w.keeping.Store(n)
		if d.role.Mutant == journalMutant && n%2 == 1 {
			err = j.Remove("first")
		}
		switch {
		case err != nil:
		case n%2 == 1:
			err = j.Put("first", journalValue(&p, n))
		case n%8 == 0:
			err = j.Remove("second")
		default:
			err = j.Put("second", journalValue(&p, n))
		}
		if err != nil {
			return fmt.Errorf("change %d of the journal: %w", n, err)
		}
		w.kept.Store(n)
		select {
		case <-stop:
			return nil
		default:
		}
		if n%64 == 0 && rand.IntN(4) > 0 {
			<-stop // the others want to work too
			return nil
		}
	}
}

// checkJournal looks whether the journal is as after the last change, or the one
// that was under way.
func (d *crashDaemon) checkJournal() error {
	p, err := d.journalPattern()
	if err != nil {
		return err
	}
	all, w := d.control.Journal().All(), d.words
	for _, n := range []uint64{w.kept.Load(), w.keeping.Load()} {
		want := journalAfter(&p, n)
		same := len(all) == len(want)
		for key, value := range want {
			got, ok := all[key]
			same = same && ok && string(got) == value
		}
		if same {
			w.kept.Store(n)
			return nil
		}
	}
	text := fmt.Sprintf("the journal is neither as after change %d nor %d:", w.kept.Load(), w.keeping.Load())
	for key, value := range all {
		text += fmt.Sprintf(" %s has %d bytes %.20q", key, len(value), value)
	}
	return fmt.Errorf("%s", text)
}
