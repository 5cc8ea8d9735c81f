package rules

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/uvbond/uvbond"
	root   = "../.."
)

var update = flag.Bool("update", false, "rewrite the committed dependency list")

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath   string
	Name         string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	Standard     bool
	Module       *struct{ Path, Version string }
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no packages")
	}
	return pkgs
}

// within tells whether an import path is one of the module's folders or below it.
func within(path string, folders ...string) bool {
	for _, f := range folders {
		if path == module+"/"+f || strings.HasPrefix(path, module+"/"+f+"/") {
			return true
		}
	}
	return false
}

// TestTrustBoundary holds the imports against the trust domains.
func TestTrustBoundary(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, dep := range p.Deps {
			switch {
			case within(p.ImportPath, "hypervisor", "cmd/uvbond-hypervisor") && within(dep, "server", "tenant", "cmd", "test"):
				t.Errorf("%s (trusted) depends on %s", p.ImportPath, dep)
			case within(p.ImportPath, "server", "cmd/uvbond-server") && within(dep, "hypervisor", "tenant", "bond", "disk", "cmd", "test"):
				t.Errorf("%s (untrusted) depends on %s: it would hold secret types", p.ImportPath, dep)
			case within(p.ImportPath, "tenant", "cmd/uvbond") && within(dep, "server", "hypervisor", "cmd", "test"):
				t.Errorf("%s (tenant) depends on %s", p.ImportPath, dep)
			case within(p.ImportPath, "disk", "qmp", "bond", "channel", "automaton", "automata", "policy") && within(dep, "server", "hypervisor", "tenant", "cmd", "test"):
				t.Errorf("%s (shared) depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// TestPurePackages: what both ends believe in is kept small enough to review.
func TestPurePackages(t *testing.T) {
	extra := map[string][]string{
		"bond":      {"github.com/fxamacker/cbor/v2"}, // the reason is in its package comment
		"automaton": nil,
		"channel":   {module + "/bond", "github.com/flynn/noise"},
		"policy":    {module + "/automaton"},
		"disk/xts":  nil,
		"nearest":   nil,

		"channel/forward":     {"github.com/hashicorp/yamux"},
		"channel/console":     nil,
		"channel/console/hub": {module + "/channel/console"},
	}
	for folder, allowed := range extra {
		for _, p := range list(t, "./"+folder) {
			for _, imp := range p.Imports {
				std := !strings.Contains(strings.Split(imp, "/")[0], ".")
				if !std && !strings.HasPrefix(imp, "golang.org/x/") && !slices.Contains(allowed, imp) {
					t.Errorf("%s imports %s; it may import the standard library and golang.org/x only", p.ImportPath, imp)
				}
			}
		}
	}
}

// TestTrustedDependencies holds the trusted program's modules against the
// committed list: each of them is attack surface and its arrival is reviewed.
func TestTrustedDependencies(t *testing.T) {
	const file = root + "/cmd/uvbond-hypervisor/dependencies.txt"
	lines := map[string]bool{}
	for _, p := range list(t, "-deps", "./cmd/uvbond-hypervisor") {
		if p.Module != nil && p.Module.Path != module {
			lines[p.ImportPath+" "+p.Module.Version] = true
		}
	}
	var sorted []string
	for l := range lines {
		sorted = append(sorted, l)
	}
	slices.Sort(sorted)
	got := strings.Join(sorted, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the packages from outside in uvbond-hypervisor changed; review them, then run\n  go test ./test/rules -update\nhave:\n%swant:\n%s", got, want)
	}
}

// goFiles calls f for every Go file of the repository.
func goFiles(t *testing.T, f func(path string, src []byte)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == ".cache") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		f(path, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 50 {
		t.Fatalf("found %d Go files only", n)
	}
}

func TestFormatted(t *testing.T) {
	goFiles(t, func(path string, src []byte) {
		want, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(src, want) {
			t.Errorf("%s is not formatted; run gofmt -w", path)
		}
	})
}

func TestPackageComments(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestExportedComments: every exported type and function outside of tests says what it promises.
func TestExportedComments(t *testing.T) {
	goFiles(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		if f.Name.Name == "main" {
			return
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && d.Recv == nil {
					t.Errorf("%s: func %s has no comment", path, d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil {
						t.Errorf("%s: type %s has no comment", path, ts.Name)
					}
				}
			}
		}
	})
}

// TestUnsafeFiles: unsafe stands in files whose name says so.
func TestUnsafeFiles(t *testing.T) {
	goFiles(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_unsafe.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		for _, i := range f.Imports {
			if i.Path.Value == `"unsafe"` {
				t.Errorf("%s imports unsafe; move that part to a file named *_unsafe.go", path)
			}
		}
	})
}

// TestFuzzTargetsListed: every fuzz target is in `make fuzz`.
func TestFuzzTargetsListed(t *testing.T) {
	mk, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(mk, []byte("hack/fuzz.sh")) {
		t.Fatal("the Makefile does not run hack/fuzz.sh, which finds every fuzz target")
	}
}
