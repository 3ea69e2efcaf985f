package session_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/piped-dev/piped/pipe"
	"github.com/piped-dev/piped/session"
)

// A screen is a terminal's end with somebody before it.
type screen struct {
	t     *testing.T
	e     *session.Endpoint
	r     *session.Reader
	shown strings.Builder
	end   *pipe.End
}

// onTerminal starts a script whose standard streams are a terminal.
func onTerminal(t *testing.T, reg *session.Registry, script string, change func(*session.ProcessSpec)) (*screen, *session.Process) {
	t.Helper()
	spec := session.ProcessSpec{Args: []string{"sh", "-c", script}, Stdin: session.StdioTerminal, Stdout: session.StdioTerminal, Stderr: session.StdioTerminal}
	if change != nil {
		change(&spec)
	}
	s := create(t, reg, session.Spec{Process: &spec})
	e := endpoint(t, s, "stdio", 1)
	p, err := s.Process("")
	if err != nil {
		t.Fatal(err)
	}
	return &screen{t: t, e: e, r: openReader(t, e, session.ReaderOptions{})}, p
}

// sees waits until the screen has shown a text so many times.
func (s *screen) sees(text string, times int) {
	s.t.Helper()
	for strings.Count(s.shown.String(), text) < times {
		if s.end != nil {
			s.t.Fatalf("the output ended (%+v) without %q %d times: %q", *s.end, text, times, s.shown.String())
		}
		s.next()
	}
}

func (s *screen) next() {
	s.t.Helper()
	ev := receive(s.t, s.r)
	switch {
	case ev.Batch != nil:
		s.shown.Write(ev.Batch.Data)
		if err := s.r.Ack(ev.Batch.Next); err != nil {
			s.t.Fatal(err)
		}
	case ev.End != nil:
		s.end = ev.End
	}
}

// all returns everything that the screen has shown at the end.
func (s *screen) all() string {
	s.t.Helper()
	for s.end == nil {
		s.next()
	}
	return s.shown.String()
}

func (s *screen) types(text string) {
	s.t.Helper()
	send(s.t, s.e, text)
}

func TestTerminalIsTheControllingOneAndHasItsSizeBeforeTheProgram(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), `stty size; tty; echo $TERM; echo ok > /dev/tty; ps -o pgid=,tpgid= -p $$`, func(spec *session.ProcessSpec) {
		spec.Terminal = &session.TerminalSpec{Size: pipe.WindowSize{Rows: 50, Columns: 132}, Name: "vt100"}
	})
	lines := strings.Split(s.all(), "\r\n")
	if len(lines) != 6 || lines[0] != "50 132" || !strings.HasPrefix(lines[1], "/dev/pts/") || lines[2] != "vt100" || lines[3] != "ok" {
		t.Fatalf("the program sees %q", lines)
	}
	if f := strings.Fields(lines[4]); len(f) != 2 || f[0] != f[1] || f[0] != fmt.Sprint(p.Info().Pid) {
		t.Errorf("process group and the terminal's foreground are %v, the process is %d", f, p.Info().Pid)
	}
	if s.end.Cause != pipe.CauseClosed || s.end.Detail != "hangup" {
		t.Errorf("the end is %+v", *s.end)
	}
}

func TestEndOfInputIsTypedWhereTheTerminalHasOne(t *testing.T) {
	for name, test := range map[string]struct{ typed, want string }{
		"nothing":           {"", ""},
		"at a line's start": {"one\n", "one\n"},
		"inside a line":     {"one\ntwo", "one\ntwo"},
		"behind a kill":     {"one\ntwo\x15", "one\n"},
	} {
		t.Run(name, func(t *testing.T) {
			file := t.TempDir() + "/got"
			s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) { spec.Args = []string{"sh", "-c", `exec cat > "$0"`, file} })
			if test.typed != "" {
				s.types(test.typed)
			}
			for range 2 { // the second changes nothing
				if err := s.e.Close(session.CloseOptions{SendOnly: true}); err != nil {
					t.Fatal(err)
				}
			}
			wantExit(t, p, 0, 0, session.CauseOwn)
			if got, err := os.ReadFile(file); err != nil || string(got) != test.want {
				t.Errorf("the program read %q, %v; want %q", got, err, test.want)
			}
			s.all()
		})
	}
}

func TestEndOfInputIsRefusedInRawMode(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), `stty raw -echo; echo ready; dd bs=1 count=3 2>/dev/null; stty sane; echo back; cat; echo over`, nil)
	s.sees("ready", 1)
	if err := s.e.Close(session.CloseOptions{SendOnly: true}); !errors.Is(err, pipe.ErrTerminalRaw) {
		t.Fatalf("%v, want ErrTerminalRaw", err)
	}
	if err := s.e.Close(session.CloseOptions{SendOnly: true, Discard: true}); !errors.Is(err, session.ErrArgument) {
		t.Fatalf("with discard: %v", err)
	}
	s.types("a\x04\n") // bytes as any
	s.sees("back", 1)
	if err := s.e.Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	wantExit(t, p, 0, 0, session.CauseOwn)
	if got := s.all(); !strings.Contains(got, "a\x04\n") || !strings.Contains(got, "over") {
		t.Errorf("the screen shows %q", got)
	}
}

func TestLineThatTheTerminalWouldCutIsRefused(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), `stty -echo; echo ready; head -n 2 | wc -c; stty raw; echo raw; head -c 9000 | wc -c`, nil)
	s.sees("ready", 1)
	w := writer(t, s.e, session.WriterOptions{})
	try := func(data string) error {
		return w.Send(t.Context(), session.Outgoing{Data: []byte(data), First: w.Expected()})
	}
	if err := try(strings.Repeat("x", 4000)); err != nil {
		t.Fatal(err)
	}
	if err := try(strings.Repeat("x", 96)); !errors.Is(err, pipe.ErrTerminalLine) {
		t.Fatalf("%v, want ErrTerminalLine", err)
	}
	if err := try(strings.Repeat("x", 95) + "\n" + strings.Repeat("x", 4095) + "\n"); err != nil {
		t.Fatal(err)
	}
	s.sees("8192", 1)
	s.sees("raw", 1)
	if err := try(strings.Repeat("x", 9000)); err != nil {
		t.Fatalf("in raw mode: %v", err)
	}
	s.sees("9000", 1)
	wantExit(t, p, 0, 0, session.CauseOwn)
}

func TestKeysSignalTheForegroundJobAlone(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) {
		spec.Args = []string{"bash", "--norc", "--noprofile", "-i"}
		spec.Env = []string{"PS1=<prompt>"}
	})
	s.sees("<prompt>", 1)
	s.types("sleep 1000 & sh -c 'echo in-$((6*7)); exec sleep 1000'\r")
	s.sees("in-42", 1)
	s.types("\x03")
	s.types("\recho back-$((1+1)); jobs\r")
	s.sees("back-2", 1)
	s.sees("Running", 1)
	s.types("kill %1; exit 7\r")
	wantExit(t, p, 7, 0, session.CauseOwn)
	s.all()
}

func TestResizeReachesTheProgram(t *testing.T) {
	reg := newRegistry(t, nil)
	s, p := onTerminal(t, reg, `trap 'stty size; exit 0' WINCH; echo ready; while :; do read -r line || exit 1; done`, nil)
	s.sees("ready", 1)
	e, err := p.Terminal()
	if err != nil || e != s.e {
		t.Fatalf("the terminal is behind %v, %v", e, err)
	}
	if err := e.Resize(pipe.WindowSize{Rows: 31, Columns: 99}); err != nil {
		t.Fatal(err)
	}
	s.types("\n")
	s.sees("31 99", 1)
	wantExit(t, p, 0, 0, session.CauseOwn)
	s.all()

	if err := e.Resize(pipe.WindowSize{Rows: 31}); !errors.Is(err, session.ErrArgument) {
		t.Errorf("without columns: %v", err)
	}
	other := create(t, reg, session.Spec{Process: &session.ProcessSpec{Args: []string{"cat"}}})
	if err := endpoint(t, other, "stdio", 1).Resize(pipe.WindowSize{Rows: 1, Columns: 1}); !errors.Is(err, session.ErrNoTerminal) {
		t.Errorf("of a pipe: %v", err)
	}
	q, err := other.Process("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Terminal(); !errors.Is(err, session.ErrNoTerminal) {
		t.Errorf("of a process without one: %v", err)
	}
}

func TestCloseHangsUp(t *testing.T) {
	file := t.TempDir() + "/got"
	s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) {
		spec.Args = []string{"sh", "-c", `trap 'echo hup > "$0"; exit 3' HUP; echo ready; while :; do sleep 0.05; done`, file}
	})
	s.sees("ready", 1)
	if err := s.e.Close(session.CloseOptions{}); err != nil {
		t.Fatal(err)
	}
	wantExit(t, p, 3, 0, session.CauseOwn)
	if got, _ := os.ReadFile(file); string(got) != "hup\n" {
		t.Errorf("the program wrote %q", got)
	}
}

func TestStopOfAnInteractiveShellHangsUp(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) {
		spec.Args = []string{"bash", "--norc", "--noprofile", "-i"}
		spec.Env = []string{"PS1=<prompt>"}
	})
	s.sees("<prompt>", 1)
	hour := time.Hour
	stop(t, p, session.StopPolicy{CloseGrace: &hour})
	wantExit(t, p, -1, syscall.SIGHUP, session.CauseStopped)
	s.all()
}

func TestOutputTerminalChangesNoByteAndControlsNothing(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), `tty <&1; echo $TERM; (exec < /dev/tty) 2>/dev/null || echo none; printf 'a\tb\n\004'; cat`, func(spec *session.ProcessSpec) {
		spec.Stdin, spec.Stderr = session.StdioPipe, session.StdioMerged
		spec.Stdio.In.Name = "mp"
	})
	s.sees("none", 1)
	w := writer(t, s.e, session.WriterOptions{})
	if err := w.Send(t.Context(), session.Outgoing{Data: []byte("in\r\n"), First: w.Expected()}); err != nil {
		t.Fatal(err)
	}
	if err := s.e.Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	wantExit(t, p, 0, 0, session.CauseOwn)
	got := s.all()
	if want := "dumb\nnone\na\tb\n\x04\x00\x00\x00\x04in\r\n"; !strings.HasPrefix(got, "/dev/pts/") || !strings.HasSuffix(got, want) {
		t.Errorf("the output is %q, want %q at its end", got, want)
	}
}

func TestOutputTerminalShowsEachLineAtOnce(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) {
		spec.Args = []string{"python3", "-c", "import sys\nprint('hello')\nsys.stdin.read()\nprint('bye')"}
		spec.Stdin, spec.Stderr = session.StdioPipe, session.StdioNull
		spec.Stdio.Out.Name = "line"
	})
	s.sees("hello", 1) // while it waits for its input
	if !p.Running() {
		t.Fatal("it has exited")
	}
	if err := s.e.Close(session.CloseOptions{SendOnly: true}); err != nil {
		t.Fatal(err)
	}
	s.sees("bye", 1)
	wantExit(t, p, 0, 0, session.CauseOwn)
}

func TestInterpreterOnATerminal(t *testing.T) {
	s, p := onTerminal(t, newRegistry(t, nil), "", func(spec *session.ProcessSpec) {
		spec.Args, spec.Env = []string{"python3", "-i", "-q"}, []string{"PYTHON_BASIC_REPL=1"}
	})
	s.sees(">>> ", 1)
	s.types("6*7\n")
	s.sees("42", 1)
	s.sees(">>> ", 2)
	s.types("exit(5)\n")
	wantExit(t, p, 5, 0, session.CauseOwn)
	s.all()
}

// The kernel throws away what a dying process wrote last when the other side of its
// terminal is closed too soon.
func TestLastLineOfADyingProcessIsThere(t *testing.T) {
	runs := 300
	if os.Getenv("TERMINALS") == "long" {
		runs = 1000
	}
	reg := newRegistry(t, nil)
	for i := range runs {
		s, _ := onTerminal(t, reg, fmt.Sprintf("echo first; echo last-%d", i), nil)
		if got, want := s.all(), fmt.Sprintf("first\r\nlast-%d\r\n", i); got != want {
			t.Fatalf("run %d: %q, want %q", i, got, want)
		}
	}
}

func TestTerminalsThatMakeNoSenseAreRefused(t *testing.T) {
	reg := newRegistry(t, nil)
	tty := session.StdioTerminal
	for says, spec := range map[string]session.ProcessSpec{
		"stdin is a terminal and stdout is not":        {Stdin: tty},
		"stderr is a terminal and stdout is not":       {Stderr: tty},
		"no standard stream is one":                    {Terminal: &session.TerminalSpec{}},
		"give both, or neither":                        {Stdin: tty, Stdout: tty, Terminal: &session.TerminalSpec{Size: pipe.WindowSize{Rows: 1}}},
		`terminal name "a b"`:                          {Stdin: tty, Stdout: tty, Terminal: &session.TerminalSpec{Name: "a b"}},
		`framing "mp" on a terminal, output`:           {Stdin: tty, Stdout: tty, Stdio: session.PipeSpec{Out: pipe.Framing{Name: "mp"}}},
		`framing "mp" on a terminal, input`:            {Stdin: tty, Stdout: tty, Stdio: session.PipeSpec{In: pipe.Framing{Name: "mp"}}},
		"descriptor 1 is stdout, which is a terminal:": {Stdin: tty, Stdout: tty, Inherits: []session.Inherit{{Pipe: "x", End: 1, FD: 1}}},
	} {
		spec.Args = []string{"true"}
		_, err := reg.Create(t.Context(), session.Spec{Process: &spec})
		if !errors.Is(err, session.ErrArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestTerminalBelongsToTheUserOfTheProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a program as somebody else")
	}
	for name, limits := range map[string]*int{"by the fork": nil, "by a stage": new(1)} {
		t.Run(name, func(t *testing.T) {
			s, _ := onTerminal(t, newRegistry(t, nil), `stat -c %u $(tty); echo opened > $(tty); echo ok > /dev/tty`, func(spec *session.ProcessSpec) {
				spec.User, spec.Nice = "nobody", limits
			})
			if got, want := s.all(), "65534\r\nopened\r\nok\r\n"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
