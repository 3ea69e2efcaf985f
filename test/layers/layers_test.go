package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list returns what the go command knows about the packages that match pattern, as seen on system, with further flags of go list.
func list(t *testing.T, system, pattern string, flags ...string) []goPackage {
	t.Helper()
	args := append([]string{"list", "-json=ImportPath,Name,Imports,TestImports,XTestImports"}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, pattern)...)
	cmd.Dir = repositoryRoot
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s for %s: %v\n%s", pattern, system, err, stderr.Bytes())
	}

	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("go list %s for %s: %v", pattern, system, err)
		}
		packages = append(packages, p)
	}
}

func TestDependenciesPointOneWay(t *testing.T) {
	t.Parallel()
	for _, l := range layers {
		for _, system := range l.systems {
			t.Run(l.folder+"/"+system, func(t *testing.T) {
				t.Parallel()
				packages := list(t, system, "./"+l.folder+"/...")
				if len(packages) == 0 {
					t.Errorf("%s/ holds no package: the layers in layer.go are out of date", l.folder)
				}
				for _, p := range packages {
					for _, sentence := range l.violations(p) {
						t.Error(sentence)
					}
				}
			})
		}
	}
}

func TestPackagesAreNamedByWhatTheyHold(t *testing.T) {
	t.Parallel()
	empty := []string{"util", "utils", "common", "misc", "helper", "helpers"}
	for _, p := range list(t, "linux", "./...") {
		if slices.Contains(empty, p.Name) || slices.Contains(empty, path.Base(p.ImportPath)) {
			t.Errorf("package %s (%s): the name does not say what it holds", p.Name, p.ImportPath)
		}
	}
}

func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		folder string
		pkg    goPackage
		want   []string // a part of each sentence
	}{
		{
			name: "nothing but the standard library", folder: "pipe",
			pkg: goPackage{Imports: []string{"io", "encoding/binary", "golang.org/x/sys/unix"}},
		},
		{
			name: "a layer above", folder: "pipe",
			pkg:  goPackage{Imports: []string{"io", modulePath + "/session"}},
			want: []string{"imports " + modulePath + "/session;"},
		},
		{
			name: "a layer beside", folder: "keeper",
			pkg:  goPackage{Imports: []string{modulePath + "/pipe"}},
			want: []string{"imports " + modulePath + "/pipe;"},
		},
		{
			name: "the names of instants", folder: "client",
			pkg: goPackage{Imports: []string{modulePath + "/failpoint"}},
		},
		{
			name: "a layer above the names of instants", folder: "failpoint",
			pkg:  goPackage{Imports: []string{modulePath + "/pipe"}},
			want: []string{"imports " + modulePath + "/pipe;"},
		},
		{
			name: "a package of the same layer", folder: "pipe",
			pkg: goPackage{Imports: []string{modulePath + "/pipe/inner"}},
		},
		{
			name: "a name that only begins like an allowed one", folder: "client",
			pkg:  goPackage{Imports: []string{modulePath + "/generator", modulePath + "/gen/piped/v1"}},
			want: []string{modulePath + "/generator"},
		},
		{
			name: "cgo", folder: "keeper",
			pkg:  goPackage{Imports: []string{"C"}},
			want: []string{"imports C;"},
		},
		{
			name: "libraries of tests in tests", folder: "pipe",
			pkg: goPackage{TestImports: []string{"go.uber.org/goleak"}, XTestImports: []string{"github.com/google/go-cmp/cmp"}},
		},
		{
			name: "libraries of tests outside tests", folder: "pipe",
			pkg:  goPackage{Imports: []string{"github.com/google/go-cmp/cmp"}},
			want: []string{"imports github.com/google/go-cmp/cmp;"},
		},
		{
			name: "a layer above in a test", folder: "keeper",
			pkg:  goPackage{XTestImports: []string{modulePath + "/server"}},
			want: []string{"tests of"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at := slices.IndexFunc(layers, func(l layer) bool { return l.folder == tt.folder })
			got := layers[at].violations(tt.pkg)
			if len(got) != len(tt.want) {
				t.Fatalf("violations differ (-want +got):\n%s", cmp.Diff(tt.want, got))
			}
			for i, part := range tt.want {
				if !strings.Contains(got[i], part) {
					t.Errorf("got %q, want it to say %q", got[i], part)
				}
			}
		})
	}
}
