package session

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestNamesCanBeWrittenInReferences(t *testing.T) {
	long := strings.Repeat("a", maxName)
	for _, name := range []string{"a", "0", "a.b_c-d", long} {
		if err := checkName("session", name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "A", ".a", "-a", "_a", "a/b", "a:1", "a b", "ä", "a\n", "a\x00", long + "a"} {
		if err := checkName("session", name); !errors.Is(err, ErrArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBaseNameOfAnyProgramIsAName(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/bin/sort": "sort", "Python3.11": "python3.11", "./a b": "a-b", "/": "process", "...": "process",
		"/x/_hidden": "hidden", "/bin/ä": "process", "\xff\xfe": "process", strings.Repeat("x", 100): strings.Repeat("x", 40),
	} {
		got := baseName(program)
		if got != want {
			t.Errorf("%q: got %q, want %q", program, got, want)
		}
		if err := checkName("session", randomName(got)); err != nil {
			t.Error(err)
		}
	}
}

func TestFreeNameNumbersWhatIsTaken(t *testing.T) {
	long := strings.Repeat("n", maxName)
	for _, tc := range []struct {
		name  string
		taken []string
		want  string
	}{
		{"pipe", nil, "pipe"},
		{"pipe", []string{"pipe"}, "pipe-2"},
		{"pipe", []string{"pipe", "pipe-2", "pipe-4"}, "pipe-3"},
		{long, []string{long}, long[:maxName-2] + "-2"},
	} {
		got := freeName(tc.name, func(n string) bool { return slices.Contains(tc.taken, n) })
		if got != tc.want {
			t.Errorf("%s of %v: got %s, want %s", tc.name, tc.taken, got, tc.want)
		}
	}
}

func TestStdioNamesAreFreeAndValid(t *testing.T) {
	long := strings.Repeat("n", maxName)
	for _, tc := range []struct {
		process, want string
		taken         []string
	}{
		{"cat", "stdio", nil},
		{"cat", "cat.stdio", []string{"stdio"}},
		{"cat", "cat.stdio-2", []string{"stdio", "cat.stdio"}},
		{long, long[:maxName-6] + ".stdio", []string{"stdio"}},
	} {
		l := &launch{name: tc.process, pipes: make(map[string]*Pipe)}
		for _, name := range tc.taken {
			l.pipes[name] = &Pipe{}
		}
		got := l.stdioName("stdio")
		if err := checkName("pipe", got); got != tc.want || err != nil {
			t.Errorf("got %s, want %s (%v)", got, tc.want, err)
		}
	}
}
