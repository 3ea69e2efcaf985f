package systemd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// playChild is the child of the session: it checks what comes, and meanwhile
// sends numbered messages of its own, each of which says what is wrong with what
// came. When its input ends it sends a last one, which is empty.
func playChild() error {
	// A descendant that leaves everything behind: also it must be gone when all sessions are ended.
	stray := exec.Command("/bin/sleep", "1000000")
	stray.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stray.Start(); err != nil {
		return err
	}
	var mu sync.Mutex
	var got tally
	ended := make(chan error, 1)
	go func() {
		in := bufio.NewReader(os.Stdin)
		for {
			msg, err := readFrame(in)
			if err != nil {
				ended <- err
				return
			}
			mu.Lock()
			got.take(msg)
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		mu.Lock()
		text := fmt.Sprintf("%d %v", max(got.Next, 1), &got)
		mu.Unlock()
		if err := writeFrame(os.Stdout, message(n, text)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("receive: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			last := message(n+1, fmt.Sprintf("%d %v", max(got.Next, 1), &got))
			return errors.Join(writeFrame(os.Stdout, last), writeFrame(os.Stdout, nil))
		case <-tick.C:
		}
	}
}

// readFrame and writeFrame speak the framing mp, of short messages.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return msg, nil
}

func writeFrame(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}
