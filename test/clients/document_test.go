package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/piped-dev/piped/test/daemon"
)

// document is read from its beginning to its end: each block "sh" is run, "python file=NAME" and "js file=NAME" are files for the
// scripts after them, and a block "text" or "json" is what the script before it prints. "console" is for what changes the machine.
const document = "../../docs/api.md"

func TestDocumentDoesWhatItShows(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(t)
	reader := newReader(t, d)
	var output string
	calls := 0
	for _, b := range blocks(string(text)) {
		kind, file, _ := strings.Cut(b.info, " file=")
		switch kind {
		case "sh":
			output = reader.run(t, b)
			calls += strings.Count(b.body, "grpcurl ")
		case "python", "js":
			if err := os.WriteFile(filepath.Join(reader.dir, file), []byte(b.body), 0o600); err != nil {
				t.Fatal(err)
			}
		case "text":
			if diff := cmp.Diff(b.body, output); diff != "" {
				t.Errorf("%s: the output is another one (-shown +printed):\n%s", b.where(), diff)
			}
		case "json":
			if err := showsJSON(b.body, output); err != nil {
				t.Errorf("%s: %v\nprinted:\n%s", b.where(), err, output)
			}
		case "console":
		default:
			t.Errorf("%s: a block %q is neither run nor compared", b.where(), b.info)
		}
	}
	if calls < 10 {
		t.Errorf("the document has %d calls of grpcurl", calls)
	}
}

// a reader is somebody in a clone of the repository, with the programs that the document asks for.
type reader struct {
	dir string
	env []string
}

func newReader(t *testing.T, d *daemon.Daemon) *reader {
	t.Helper()
	for _, name := range []string{"protoc", "grpc_python_plugin", "node", debianPython} {
		program(t, name)
	}
	r := &reader{dir: t.TempDir()}
	r.env = []string{"PATH=" + grpcurl(t) + ":" + os.Getenv("PATH"), "LANG=C.UTF-8", "PIPED_ADDR=" + d.Addr}
	proto, err := filepath.Abs("../../proto")
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"proto": proto, "node_modules": nodeModules(t)} {
		if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *reader) run(t *testing.T, b block) string {
	t.Helper()
	cmd := command(t, "/bin/sh", "-euc", b.body)
	cmd.Dir, cmd.Env = r.dir, r.env
	output, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%s: %v\n%s", b.where(), exit, output)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

// A block is a fenced block of the document.
type block struct {
	line int // of its opening fence, from 1
	info string
	body string
}

func (b block) where() string { return fmt.Sprintf("docs/api.md:%d", b.line) }

func blocks(text string) []block {
	var found []block
	var open *block
	for i, line := range strings.Split(text, "\n") {
		switch info, fence := strings.CutPrefix(line, "```"); {
		case fence && open != nil:
			found, open = append(found, *open), nil
		case fence:
			open = &block{line: i + 1, info: info}
		case open != nil:
			open.body += line + "\n"
		}
	}
	return found
}

// showsJSON compares two runs of JSON values. An object may print more fields than are shown; a shown "..." is any value.
func showsJSON(shown, printed string) error {
	want, err := values(shown)
	if err != nil {
		return fmt.Errorf("shown: %w", err)
	}
	got, err := values(printed)
	if err != nil {
		return fmt.Errorf("printed: %w", err)
	}
	return shows("output", want, got)
}

func values(text string) ([]any, error) {
	var all []any
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var value any
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
}

func shows(path string, shown, printed any) error {
	switch want := shown.(type) {
	case map[string]any:
		got, ok := printed.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v, an object is shown", path, printed)
		}
		for key := range want {
			if err := shows(path+"."+key, want[key], got[key]); err != nil {
				return err
			}
		}
		return nil
	case []any:
		got, ok := printed.([]any)
		if !ok || len(got) != len(want) {
			return fmt.Errorf("%s has another number of elements, %d are shown", path, len(want))
		}
		for i := range want {
			if err := shows(fmt.Sprintf("%s[%d]", path, i), want[i], got[i]); err != nil {
				return err
			}
		}
		return nil
	case string:
		if want == "..." && printed != nil {
			return nil
		}
	}
	if shown != printed {
		return fmt.Errorf("%s is %v, %v is shown", path, printed, shown)
	}
	return nil
}

func TestJSONIsComparedWithWhatIsShown(t *testing.T) {
	tests := []struct {
		name, shown, printed string
		want                 bool
	}{
		{"equal", `{"a": [1, {"b": "x"}]}`, `{"a": [1, {"b": "x"}]}`, true},
		{"fields that are not shown", `{"a": {"b": 1}}`, `{"a": {"b": 1, "c": 2}, "d": 3}`, true},
		{"any value", `{"a": "..."}`, `{"a": 5}`, true},
		{"any value that is missing", `{"a": "..."}`, `{}`, false},
		{"another value", `{"a": 1}`, `{"a": 2}`, false},
		{"another kind of value", `{"a": {}}`, `{"a": []}`, false},
		{"another element", `[1, 2]`, `[1, 3]`, false},
		{"an element more", `[1]`, `[1, 2]`, false},
		{"a value more", `{}`, `{} {}`, false},
		{"no JSON", `{}`, `ERROR`, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := showsJSON(test.shown, test.printed); (err == nil) != test.want {
				t.Errorf("showsJSON(%s, %s): %v", test.shown, test.printed, err)
			}
		})
	}
}
