package exact

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
)

// A progress is a file to which one process after another appends lines. A line
// that was cut off by the death of its writer does not count, and the next
// process removes it.
type progress struct {
	file *os.File
	// lines are those that were there.
	lines [][]byte
}

// openProgress opens or creates the file.
func openProgress(path string) (*progress, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(len(whole))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p := &progress{file: f}
	if len(whole) > 0 {
		p.lines = bytes.Split(whole[:len(whole)-1], []byte("\n"))
	}
	return p, nil
}

// add appends one line, in one write.
func (p *progress) add(line []byte) error {
	_, err := p.file.Write(append(line, '\n'))
	return err
}

func (p *progress) close() error { return p.file.Close() }
