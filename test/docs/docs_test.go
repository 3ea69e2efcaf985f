package docs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/piped-dev/piped/test/daemon"
)

const repositoryRoot = "../.."

func TestMain(m *testing.M) { daemon.Main(m) }

// Each document is read from its beginning to its end against a daemon of its own, in a directory of its own.
func TestDocumentsDoWhatTheyShow(t *testing.T) {
	// Debian's own interpreter, not a shell script that looks for one: inspect shows the commands of holders.
	t.Setenv("PATH", "/usr/bin:/bin:"+os.Getenv("PATH"))
	for _, name := range []string{"README.md", "docs/quickstart-python.md", "docs/framing.md", "docs/recording.md", "docs/holders.md", "docs/restarts.md", "docs/bound.md"} {
		t.Run(name, func(t *testing.T) {
			d := daemon.Start(t)
			dir := t.TempDir()
			all := blocks(read(t, name))
			scripts := 0
			for i, b := range all {
				if file, ok := strings.CutPrefix(b.info, "python file="); ok {
					if err := os.WriteFile(filepath.Join(dir, file), []byte(b.body), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if b.info != "sh" {
					continue
				}
				scripts++
				output := run(t, d, dir, name, b)
				if i+1 < len(all) && all[i+1].info == "text" && !same(all[i+1].body, output) {
					t.Errorf("%s:%d prints\n%s\nand shows\n%s", name, b.line, output, all[i+1].body)
				}
			}
			if scripts == 0 {
				t.Error("the document has no script")
			}
		})
	}
}

// run runs a script as a reader would and returns all that it prints.
func run(t *testing.T, d *daemon.Daemon, dir, name string, script block) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), daemon.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", script.body)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + d.Bin + ":" + os.Getenv("PATH"), "HOME=" + d.Dir, "LANG=C.UTF-8", "PIPED_ADDR=" + d.Addr}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s:%d: %v\n%s", name, script.line, err, output)
	}
	return string(output)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repositoryRoot, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are all manuals, as paths from the root.
func documents(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(repositoryRoot, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			names = append(names, strings.TrimPrefix(path, repositoryRoot+"/"))
		}
	}
	if len(names) < 2 {
		t.Fatalf("found only %q", names)
	}
	return names
}

var link = regexp.MustCompile(`\]\(([^)\s#]+)[^)]*\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(prose(read(t, name)), -1) {
			target := found[1]
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(repositoryRoot, filepath.Dir(name), target)); err != nil {
				t.Errorf("%s links %s: %v", name, target, err)
			}
		}
	}
}

var makeCommand = regexp.MustCompile("(?m)(?:`|^|\\$ )(?:sudo )?make ([a-z]+)")

func TestMakeTargetsExist(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	for _, name := range documents(t) {
		for _, found := range makeCommand.FindAllStringSubmatch(read(t, name), -1) {
			if !strings.Contains(makefile, "\n"+found[1]+":") {
				t.Errorf("%s names make %s, which the Makefile does not have", name, found[1])
			}
		}
	}
}
