package rules

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	threatTest   = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)(?:/([^`]+))?`")
	threatAttack = regexp.MustCompile("`test/demo \"([^`]+)\"`")
)

// TestThreatModelIsProved: every row of the adversary and attack tables names
// at least one test, and each named test, case and attack exists.
func TestThreatModelIsProved(t *testing.T) {
	text := documents(t)["docs/threat-model.md"]
	rows, names := 0, 0
	for _, title := range []string{"Adversaries", "Attacks by the operator"} {
		_, section, ok := strings.Cut(text, "\n## "+title+"\n")
		if !ok {
			t.Fatalf("docs/threat-model.md has no section %q", title)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		table := regexp.MustCompile(`(?m)^\| .*\|$`).FindAllString(section, -1)
		for _, row := range table[1:] { // the first is the head
			if strings.HasPrefix(row, "|---") {
				continue
			}
			rows++
			tests, attacks := threatTest.FindAllStringSubmatch(row, -1), threatAttack.FindAllStringSubmatch(row, -1)
			if len(tests)+len(attacks) == 0 {
				t.Errorf("this row names no test: %s", row)
			}
			names += len(tests) + len(attacks)
			for _, m := range tests {
				if !testExists(t, m[1], m[2], m[3]) {
					t.Errorf("docs/threat-model.md names %s, which does not exist", m[0])
				}
			}
			for _, m := range attacks {
				if !mentioned(t, "test/demo", `"`+m[1]+`"`) {
					t.Errorf("docs/threat-model.md names the attack %q, which the demo does not play", m[1])
				}
			}
		}
	}
	if rows < 30 || names < 60 {
		t.Fatalf("found %d rows and %d tests only", rows, names)
	}
}

// testExists tells whether a package's tests have a function and mention the
// name of the case.
func testExists(t *testing.T, folder, function, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			found = found || ok && fn.Recv == nil && fn.Name.Name == function
		}
	}
	if !found || name == "" {
		return found
	}
	return mentioned(t, folder, `"`+name+`"`) || caseOfScript(t, folder, name)
}

// mentioned tells whether a Go file of a folder holds a text.
func mentioned(t *testing.T, folder, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return false
}

// caseOfScript: a testscript is a case by its file's name, and so is each way
// to be evil that a script switches on.
func caseOfScript(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "testdata/script*/*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.TrimSuffix(filepath.Base(path), ".txtar") == name {
			return true
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("\nevil "+name+"\n")) {
			return true
		}
	}
	return false
}
