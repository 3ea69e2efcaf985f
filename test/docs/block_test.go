package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// block is a fenced block of a document.
type block struct {
	line int    // of its opening fence, from 1
	info string // what stands behind the fence: "sh", "text", "python file=x.py"
	body string
}

// blocks returns the fenced blocks of a document in their order.
func blocks(document string) []block {
	var found []block
	var open *block
	for i, text := range strings.Split(document, "\n") {
		switch info, fence := strings.CutPrefix(text, "```"); {
		case fence && open != nil:
			found, open = append(found, *open), nil
		case fence:
			open = &block{line: i + 1, info: strings.TrimSpace(info)}
		case open != nil:
			open.body += text + "\n"
		}
	}
	return found
}

var fenced = regexp.MustCompile("(?ms)^```.*?^```$")

// prose returns a document without its fenced blocks.
func prose(document string) string { return fenced.ReplaceAllString(document, "") }

// varying are the parts of an output that differ from one run to the next, and what stands for them when two outputs are compared.
var varying = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`pid \d+`), "pid N"},
	{regexp.MustCompile(`the daemon, pid N, descriptors? [\d ]+`), "the daemon, pid N, descriptors N"},
	{regexp.MustCompile(`\S*/python3\S*`), "python3"},
}

// same reports whether an output is the one that is shown: line by line, but for what varies. A shown line "..." stands for any
// number of lines.
func same(shown, output string) bool {
	for _, v := range varying {
		shown, output = v.pattern.ReplaceAllString(shown, v.name), v.pattern.ReplaceAllString(output, v.name)
	}
	return sameLines(strings.Split(shown, "\n"), strings.Split(output, "\n"))
}

func sameLines(shown, output []string) bool {
	if len(shown) == 0 {
		return len(output) == 0
	}
	if strings.TrimSpace(shown[0]) != "..." {
		return len(output) > 0 && shown[0] == output[0] && sameLines(shown[1:], output[1:])
	}
	for i := range len(output) + 1 {
		if sameLines(shown[1:], output[i:]) {
			return true
		}
	}
	return false
}

func TestBlocksAreFound(t *testing.T) {
	t.Parallel()
	got := blocks("text\n```sh\na\n\nb\n```\n\n```python file=x.py\nc\n```\n```text\n```\n")
	want := []block{{2, "sh", "a\n\nb\n"}, {8, "python file=x.py", "c\n"}, {11, "text", ""}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
}

func TestProseHasNoBlocks(t *testing.T) {
	t.Parallel()
	if got := prose("a\n```sh\n[x](y)\n```\nb\n```\nc\n```\nd\n"); got != "a\n\nb\n\nd\n" {
		t.Errorf("got %q", got)
	}
}

func TestOutputsAreComparedButForWhatVaries(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, shown, output string
		want                bool
	}{
		{"equal", "a\nb\n", "a\nb\n", true},
		{"a line more", "a\n", "a\nb\n", false},
		{"a line less", "a\nb\n", "a\n", false},
		{"another line", "a\n", "b\n", false},
		{"lines left out", "a\n...\nd\n", "a\nb\nc\nd\n", true},
		{"no lines to leave out", "a\n...\nd\n", "a\nd\n", true},
		{"lines left out before another end", "a\n...\nd\n", "a\nb\nc\n", false},
		{"pids", "held by pid 12: cat", "held by pid 345: cat", true},
		{"another command", "held by pid 12: cat", "held by pid 12: dog", false},
		{"paths of python", "pid 1: python3 x.py", "pid 2: /usr/bin/python3.11 x.py", true},
		{"descriptors of the daemon", "held by the daemon, pid 1, descriptors 3 4", "held by the daemon, pid 2, descriptor 17", true},
		{"descriptors of a process", "held by pid 1: cat, descriptor 3", "held by pid 1: cat, descriptor 4", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := same(test.shown, test.output); got != test.want {
				t.Errorf("same(%q, %q) = %t", test.shown, test.output, got)
			}
		})
	}
}
