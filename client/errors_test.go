package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The reasons of the daemon are documented in docs/errors.md, which a test of the
// server compares with what it sends.
func TestReasonsAreThoseThatAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllSubmatch(text, -1) {
		documented[string(row[1])] = true
	}
	declared := make(map[string]bool)
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		for _, value := range spec.Values {
			literal, ok := value.(*ast.BasicLit)
			if !ok {
				t.Fatalf("the value of %v is no literal", spec.Names)
			}
			reason, err := strconv.Unquote(literal.Value)
			if err != nil || declared[reason] {
				t.Errorf("%s: %v, or declared twice", literal.Value, err)
			}
			declared[reason] = true
		}
		return true
	})
	if len(documented) < 30 {
		t.Fatalf("found only %d reasons in docs/errors.md", len(documented))
	}
	if diff := cmp.Diff(documented, declared); diff != "" {
		t.Errorf("(-documented +declared):\n%s", diff)
	}
}
