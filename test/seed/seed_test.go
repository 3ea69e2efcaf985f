package seed

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// endOfPipe is what the demo's programs print on EOFError.
const endOfPipe = "EOFError: the end of the pipe"

// wantMessages compares what was received.
func wantMessages(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// wantExit waits for the process of a session.
func wantExit(t *testing.T, d driver, session, want string) {
	t.Helper()
	if got := d.wait(session); got != want {
		t.Errorf("the process ended with %q, want %q", got, want)
	}
}

func TestProgram1BothEndsInOnePlace(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		d.pipe("text", "line")
		d.send("text:1", "123456")
		wantMessages(t, "text", d.recv("text:2", 1), []string{"123456"})

		d.pipe("objects", "mp")
		d.send("objects:1", pickled(t, "123456"))
		got := d.recv("objects:2", 1)[0]
		if text := unpickled(t, got); text != "123456" {
			t.Errorf("forth: got %s, want 123456", text)
		}
		d.send("objects:2", pickled(t, "{'answer': 42}"))
		got = d.recv("objects:1", 1)[0]
		if text := unpickled(t, got); text != "{'answer': 42}" {
			t.Errorf("back: got %s, want {'answer': 42}", text)
		}
	})
}

func TestProgram2ChildSends(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		d.start("two", script(t, "sender.py")...)
		got := d.recv("two/ctl", 1)[0]
		if text := unpickled(t, got); text != "'Hello'" {
			t.Errorf("got %s, want 'Hello'", text)
		}
		wantMessages(t, "after the only message", d.recvAll("two/ctl"), nil)
		wantExit(t, d, "two", "exit 0")
	})
}

func TestProgram3ChildReceivesForEver(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		messages, printed := fiveHellos(t)
		d.start("three", script(t, "receiver.py")...)
		d.send("three/ctl", messages...)
		wantMessages(t, "printed", d.recv("three", 5), printed)

		wantBlockedInRecv(t, d, "three")
		d.signal("three", "TERM")
		wantExit(t, d, "three", "signal TERM")
		wantMessages(t, "printed after the fifth", d.recvAll("three"), nil)
	})
}

// wantBlockedInRecv proves that receiver.py waits in recv for a sixth message.
func wantBlockedInRecv(t *testing.T, d driver, session string) {
	t.Helper()
	s := d.inspect(session)
	awaitAsleep(t, running(t, s).GetPid())
	out := end(t, s, "ctl", 1).GetOutbox()
	if out.GetMessages() != 5 || out.GetQueuedMessages() != 0 || out.GetQueuedBytes() != 0 {
		t.Errorf("sent to the child: %v, want 5 messages and none queued", out)
	}
	if d.ready(session) {
		t.Error("the child has printed something after the fifth")
	}
	// Python says itself where it is, innermost call first.
	d.signal(session, "USR1")
	var stack []string
	for len(stack) == 0 || !strings.Contains(stack[len(stack)-1], "in <module>") {
		stack = append(stack, d.recv(session+"/stderr", 1)...)
	}
	inRecv := func(line string) bool {
		return strings.Contains(line, "connection.py") && strings.HasSuffix(line, "in recv")
	}
	if !slices.ContainsFunc(stack, inRecv) {
		t.Errorf("the child is not in recv but here:\n%s", strings.Join(stack, "\n"))
	}
	running(t, d.inspect(session))
}

func TestProgram4EndedByNone(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		messages, printed := fiveHellos(t)
		d.start("four", script(t, "until_none.py")...)
		d.send("four/ctl", append(messages, pickled(t, "None"))...)
		wantMessages(t, "printed", d.recvAll("four"), append(printed, "that was None: done"))
		wantExit(t, d, "four", "exit 0")
	})
}

func TestProgram5EndOfFileAfterTheLastCopy(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		messages, printed := fiveHellos(t)
		d.pipe("five", "mp")
		d.inherit("five", script(t, "both_ends.py")...)
		wantMessages(t, "printed first", d.recv("five/stdio", 1), []string{"closed my copy of end 1"})
		d.closeEnd("five:2")
		d.send("five:1", messages...)
		d.closeEnd("five:1")
		wantMessages(t, "printed", d.recvAll("five/stdio"), append(printed, endOfPipe))
		wantExit(t, d, "five", "exit 0")
	})
}

func TestProgram5NoEndOfFileWhileACopyIsKept(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		messages, printed := fiveHellos(t)
		d.pipe("kept", "mp")
		d.inherit("kept", script(t, "kept_end.py")...)
		d.closeEnd("kept:2")
		d.send("kept:1", messages...)
		d.closeEnd("kept:1")
		wantMessages(t, "printed", d.recv("kept/stdio", 6), append([]string{"keep my copy of end 1"}, printed...))

		s := d.inspect("kept")
		child := running(t, s)
		awaitAsleep(t, child.GetPid())
		if d.ready("kept/stdio") {
			t.Error("the child has printed something after the fifth")
		}
		wantOnlyHolder(t, end(t, s, "pipe", 1), child.GetPid(), "kept_end.py", 3)

		d.signal("kept", "USR1")
		wantMessages(t, "printed after the copy was closed", d.recvAll("kept/stdio"), []string{endOfPipe})
		wantExit(t, d, "kept", "exit 0")
	})
}

// wantOnlyHolder checks that the daemon's copy is closed and that one process
// has the other.
func wantOnlyHolder(t *testing.T, e *pipedv1.Endpoint, pid int32, command string, fd int32) {
	t.Helper()
	if e.GetState() != pipedv1.Endpoint_STATE_CLOSED {
		t.Errorf("end %d is %v, want CLOSED", e.GetEnd(), e.GetState())
	}
	holders := e.GetHolders()
	if len(holders) != 1 || holders[0].GetPid() != pid || holders[0].GetDaemon() ||
		!strings.Contains(holders[0].GetCommand(), command) || !slices.Equal(holders[0].GetFds(), []int32{fd}) {
		t.Errorf("the holders are %v, want only pid %d, %s, with descriptor %d", holders, pid, command, fd)
	}
}

func TestProgram6FilterThroughHalfClose(t *testing.T) {
	drive(t, func(t *testing.T, d driver) {
		d.filter("six", "sort")
		d.send("six", "pear", "apple", "fig")
		d.closeSend("six")
		wantMessages(t, "sorted", d.recvAll("six"), []string{"apple", "fig", "pear"})
		wantExit(t, d, "six", "exit 0")
	})
}
