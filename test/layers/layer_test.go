package layers

import (
	"fmt"
	"slices"
	"strings"
)

// modulePath is the path of the module; the layers are the folders right below it.
const modulePath = "github.com/piped-dev/piped"

// layer is a folder of the module and what the packages in it may import beside the standard library and each other. An import
// path stands for everything below it also.
type layer struct {
	folder string
	may    []string
	// testsMay is what the tests may import on top of that; nil leaves them free, where a test brings up the whole stack.
	testsMay []string
	// systems are the GOOS values the layer is built for: each sees files, and so imports, of its own.
	systems []string
}

var (
	testLibraries = []string{"github.com/google/go-cmp", "go.uber.org/goleak", "pgregory.net/rapid"}
	grpcLibraries = []string{"google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc"}
)

// everywhere is what any layer may import: it does nothing in the programs that people run.
var everywhere = []string{modulePath + "/failpoint"}

// layers is the dependency direction, from the kernel up. What is not a layer (gen, cmd, test) may import any of them.
var layers = []layer{
	{
		folder:   "failpoint",
		testsMay: testLibraries,
		systems:  []string{"linux", "darwin", "windows"},
	},
	{
		folder:   "pipe",
		may:      []string{"golang.org/x/sys"},
		testsMay: testLibraries,
		systems:  []string{"linux"},
	},
	{
		folder:   "keeper",
		may:      []string{"golang.org/x/sys"},
		testsMay: testLibraries,
		systems:  []string{"linux"},
	},
	{
		folder:   "session",
		may:      []string{modulePath + "/pipe", modulePath + "/keeper", "github.com/google/uuid"},
		testsMay: slices.Concat([]string{"golang.org/x/sys"}, testLibraries),
		systems:  []string{"linux"},
	},
	{
		folder:  "server",
		may:     slices.Concat([]string{modulePath + "/session", modulePath + "/pipe", modulePath + "/keeper", modulePath + "/gen", "golang.org/x"}, grpcLibraries),
		systems: []string{"linux"},
	},
	{
		folder:  "client",
		may:     slices.Concat([]string{modulePath + "/gen"}, grpcLibraries),
		systems: []string{"linux", "darwin", "windows"},
	},
}

// goPackage is what `go list -json` says about a package, as far as it matters here.
type goPackage struct {
	ImportPath   string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// violations names the imports of p that its layer does not allow, each with a sentence.
func (l layer) violations(p goPackage) []string {
	var found []string
	for _, path := range p.Imports {
		if !l.allows(path) {
			found = append(found, fmt.Sprintf("%s imports %s; %s/ may import the standard library, itself and %s",
				p.ImportPath, path, l.folder, strings.Join(slices.Concat(everywhere, l.may), ", ")))
		}
	}
	if l.testsMay == nil {
		return found
	}
	for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
		if !l.allows(path) && !within(path, l.testsMay) {
			found = append(found, fmt.Sprintf("the tests of %s import %s; they may import what %s/ may, and %s",
				p.ImportPath, path, l.folder, strings.Join(l.testsMay, ", ")))
		}
	}
	return found
}

func (l layer) allows(path string) bool {
	return isStandard(path) || within(path, []string{modulePath + "/" + l.folder}) || within(path, everywhere) || within(path, l.may)
}

// isStandard says whether path is of the standard library, the only one whose paths do not begin with a domain name. "C" is not in it:
// every program here is built without cgo.
func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return path != "C" && !strings.Contains(first, ".")
}

// within says whether path is one of roots, or below one.
func within(path string, roots []string) bool {
	for _, root := range roots {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}
