package pipe

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestPythonReadsWhatWeSendAndWeReadWhatItSends(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				one, two := open(t, testSpec(kind, "mp", sealed))
				child := startOnEnd(t, two, `
r = C(3)
w = C(4, readable=False) if os.path.exists('/proc/self/fd/4') else r
while True:
    try: b = r.recv_bytes()
    except EOFError: break
    w.send_bytes(b)
print(os.get_blocking(3), end='')
`)
				sizes := []int{0, 1, 16384, 16385, 65536, 1 << 20}
				c := one.in.Consumer()
				defer c.Close()
				for i, size := range sizes {
					want := bytes.Repeat([]byte{byte('a' + i)}, size)
					send(t, one, string(want))
					var got []byte
					for more := true; more; {
						b := nextBatch(t, c, Limits{})
						got, more = append(got, b.Data...), b.More
					}
					if !bytes.Equal(got, want) {
						t.Fatalf("got %d bytes, want %d", len(got), size)
					}
				}
				if err := one.CloseSend(false); err != nil {
					t.Fatal(err)
				}
				if end := nextEnd(t, c); end.Cause != CauseClosed || end.Position.Message != uint64(len(sizes)+1) {
					t.Errorf("end %+v", end)
				}
				if out := child.wait(t); out != "True" {
					t.Errorf("the child's descriptor: blocking is %q", out)
				}
			})
		}
	}
}

func TestSixteenMiBGoThroughPythonInBoundedMemory(t *testing.T) {
	const size, part = 16 << 20, DefaultPart
	for _, sealed := range []bool{false, true} {
		for _, kind := range []Kind{Duplex, Stdio} {
			t.Run(fmt.Sprintf("%s/sealed %t", kindNames[kind], sealed), func(t *testing.T) {
				spec := testSpec(kind, "mp", sealed)
				one, two := open(t, spec)
				startOnEnd(t, two, `
r = C(3)
w = C(4, readable=False) if os.path.exists('/proc/self/fd/4') else r
w.send_bytes(r.recv_bytes())
`)
				for off := uint64(0); off < size; off += part {
					sendWaiting(t, one, Part{Data: bytes.Repeat([]byte{byte(off / part)}, part), Offset: off, Total: size, More: off+part < size})
					if held := held(&one.out.direction); held > spec.LogSize+spec.TailSize+2*maxStep {
						t.Fatalf("the outbox holds %d bytes", held)
					}
				}
				c := one.in.Consumer()
				defer c.Close()
				got := uint64(0)
				for more := true; more; {
					b := nextBatch(t, c, Limits{})
					if b.First != (Position{Message: 1, Offset: got}) || b.Total != size {
						t.Fatalf("part at %v of %d, want offset %d", b.First, b.Total, got)
					}
					for i := range b.Data {
						if want := byte((got + uint64(i)) / part); b.Data[i] != want {
							t.Fatalf("byte %d is %d, want %d", got+uint64(i), b.Data[i], want)
						}
					}
					got, more = got+uint64(len(b.Data)), b.More
					if held := held(&one.in.direction); held > spec.LogSize+spec.TailSize+2*maxStep {
						t.Fatalf("the inbox holds %d bytes", held)
					}
					if err := one.in.Ack(b.Next); err != nil {
						t.Fatal(err)
					}
				}
				if got != size {
					t.Errorf("got %d bytes", got)
				}
			})
		}
	}
}

// held is how much memory a log holds, in bytes.
func held(d *direction) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.allocated - d.log.released
}

func TestPythonGetsEndOfFileAfterTheLastMessage(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "mp", true))
	child := startOnEnd(t, two, `
c = C(3)
try:
    while True: print(len(c.recv_bytes()), end=' ')
except EOFError: print('end', end='')
`)
	for i := range 5 {
		send(t, one, strings.Repeat("x", i))
	}
	one.Close(false)
	if out := child.wait(t); out != "0 1 2 3 4 end" {
		t.Errorf("got %q", out)
	}
}

func TestPythonThatExitsEarly(t *testing.T) {
	big := fmt.Sprintf("c = C(3)\nfor i in range(3): c.send_bytes(b'x' * %d)\n", 50_000)
	for name, test := range map[string]struct {
		code string
		want End
	}{
		"after its output":  {big, End{Cause: CauseReset, Position: Position{Message: 4}, Bytes: 150_012, Detail: "the other end closed with input unread"}},
		"in a header":       {"os.write(3, b'\\0\\0')", End{Cause: CauseTruncated, Position: Position{Message: 1}, Bytes: 2, Detail: "end of file after 2 header bytes"}},
		"killed in a frame": {"os.write(3, b'\\0\\0\\0\\7abc'); os.kill(os.getpid(), 9)", End{Cause: CauseTruncated, Position: Position{Message: 1, Offset: 3}, Bytes: 7, Want: 7, Got: 3, Detail: "end of file after 3 of 7 payload bytes"}},
	} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/sealed %t", name, sealed), func(t *testing.T) {
				one, two := open(t, testSpec(Duplex, "mp", sealed))
				if test.want.Cause == CauseReset {
					send(t, one, "never read")
				}
				child := startOnEnd(t, two, test.code)
				if sealed {
					await(t, "the child to exit", child.done) // reaped before the first look
				}
				c := one.in.Consumer()
				defer c.Close()
				for {
					ev := next(t, c, Limits{})
					if ev.Batch == nil {
						if diff := cmp.Diff(&test.want, ev.End); diff != "" {
							t.Error(diff)
						}
						break
					}
				}
			})
		}
	}
}

// A child with the other end and a copy of ours: it takes messages from the
// same queue, and none that we have not taken is lost to it.
func TestTwoHoldersOfOneEndShareItsMessages(t *testing.T) {
	for _, kind := range []Kind{Duplex, OneWay} {
		t.Run(kindNames[kind], func(t *testing.T) {
			one, two := open(t, testSpec(kind, "mp", false))
			for i := range 4 {
				send(t, two, fmt.Sprint(i))
			}
			c := one.in.Consumer()
			defer c.Close()
			if b := nextBatch(t, c, Limits{Messages: 10}); string(b.Data) != "0" {
				t.Fatalf("got %q", b.Data)
			}
			r, _ := one.Descriptors()
			child := startPython(t, "c = C(3, writable=False)\nfor i in range(2): print(c.recv_bytes().decode(), end=' ')", r)
			if out := child.wait(t); out != "1 2 " {
				t.Errorf("the child got %q", out)
			}
			if b := nextBatch(t, c, Limits{Messages: 10}); string(b.Data) != "3" {
				t.Errorf("got %q", b.Data)
			}
		})
	}
}

func TestGrandchildHoldsBackTheEndOfFile(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	gate, opener := open(t, testSpec(OneWay, "raw", false))
	r, w := two.Descriptors()
	g, _ := gate.Descriptors()
	child := startPython(t, `
if os.fork() == 0:
    os.close(1); os.close(2)
    os.read(5, 1) # until the test says
    os._exit(0)
os.write(4, b'line\nhalf')
os._exit(0)
`, r, w, g)
	closeEnd(t, two, false)
	closeEnd(t, gate, false)
	child.wait(t)
	c := one.in.Consumer()
	defer c.Close()
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "line" {
		t.Fatalf("got %q", b.Data)
	}
	none(t, c)
	if one.HungUp() {
		t.Error("hung up although the grandchild holds the end")
	}
	send(t, opener, "go")
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "half" || !b.Partial {
		t.Fatalf("got %q, partial %t", b.Data, b.Partial)
	}
	if end := nextEnd(t, c); end.Cause != CauseClosed {
		t.Errorf("end %+v", end)
	}
	poll(t, "the hangup to be seen", one.HungUp)
}

func TestFilterAnswersAfterHalfClose(t *testing.T) {
	one, two := open(t, testSpec(Stdio, "line", true))
	child := startOnEnd(t, two, "os.dup2(3, 0); os.dup2(4, 1); os.close(3); os.close(4); os.execvp('sort', ['sort', '/dev/stdin'])")
	for _, m := range []string{"b", "c", "a"} {
		send(t, one, m)
	}
	if err := one.CloseSend(false); err != nil {
		t.Fatal(err)
	}
	c := one.in.Consumer()
	defer c.Close()
	var got []string
	for {
		ev := next(t, c, Limits{})
		if ev.End != nil {
			break
		}
		got = append(got, string(ev.Batch.Data))
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Error(diff)
	}
	child.wait(t)
}

// A child may make the description that it shares with our copy non-blocking,
// as Node does; nothing changes for us.
func TestChildThatMakesItsEndNonBlocking(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "mp", false))
	r, _ := two.Descriptors()
	startPython(t, "os.set_blocking(3, False)", r).wait(t)
	if !nonblocking(t, r) {
		t.Fatal("the description is not shared")
	}
	c := two.in.Consumer()
	defer c.Close()
	none(t, c)
	send(t, one, "abc")
	if b := nextBatch(t, c, Limits{}); string(b.Data) != "abc" {
		t.Errorf("got %q", b.Data)
	}
}

func TestManyTinyMessagesFillASocketAndAllArrive(t *testing.T) {
	one, two := open(t, testSpec(Duplex, "mp", true))
	const n = 2000 // a socket takes 278 of them
	for range n {
		send(t, one, "")
	}
	if one.out.Info().BlockedSince.IsZero() {
		t.Fatal("the socket has taken them all")
	}
	child := startOnEnd(t, two, fmt.Sprintf("c = C(3)\nfor i in range(%d): assert c.recv_bytes() == b''", n))
	child.wait(t)
	if info := one.out.Info(); info.QueuedMessages != 0 || info.Delivered.Message != n+1 {
		t.Errorf("info %+v", info)
	}
	if n, err := unix.IoctlGetInt(one.write.fd(), unix.TIOCOUTQ); err != nil || n != 0 {
		t.Errorf("%d unread, %v", n, err)
	}
}
