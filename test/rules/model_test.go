package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	modelCheck = regexp.MustCompile(`\bNO_[A-Z_]+\b`)
	modelRow   = regexp.MustCompile("(?m)^\\| `(NO_[A-Z_]+)` \\| ([^|]*) \\| (P[0-9]) \\|")
	modelCode  = regexp.MustCompile("`([a-z/]+)\\.([A-Za-z]+)`")
)

// TestModelNamesTheCode: the model and the table of its README name the same
// checks, and each function that is said to be such a check exists.
func TestModelNamesTheCode(t *testing.T) {
	model, readme := read(t, "docs/model/bond.pml"), read(t, "docs/model/README.md")
	inModel := modelCheck.FindAllString(model, -1)
	slices.Sort(inModel)
	inModel = slices.Compact(inModel)
	var inTable []string
	for _, row := range modelRow.FindAllStringSubmatch(readme, -1) {
		inTable = append(inTable, row[1])
		if !strings.Contains(model, "/* "+row[3]+" */") {
			t.Errorf("%s breaks %s, which no assertion of the model is marked with", row[1], row[3])
		}
		code := modelCode.FindAllStringSubmatch(row[2], -1)
		if len(code) == 0 {
			t.Errorf("the row of %s names no function", row[1])
		}
		for _, c := range code {
			if !declares(t, c[1], c[2]) {
				t.Errorf("the row of %s names %s, which does not exist", row[1], c[0])
			}
		}
	}
	slices.Sort(inTable)
	if len(inTable) < 10 || !slices.Equal(inModel, inTable) {
		t.Errorf("checks in the model: %v; in the table of its README: %v", inModel, inTable)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// declares tells whether a package has a function or method of that name outside
// of its tests.
func declares(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == name {
				return true
			}
		}
	}
	return false
}
