package rules

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/uvbond/uvbond/hypervisor"
	"github.com/uvbond/uvbond/server/config"
)

// documents are the texts that people read, by their path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(root, p)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(b)
		}
	}
	for _, must := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/automata.md", "docs/cli.md",
		"docs/disks.md", "docs/gate.md", "docs/operating.md", "docs/protocol.md", "docs/threat-model.md"} {
		if out[must] == "" {
			t.Fatalf("%s is missing or empty", must)
		}
	}
	return out
}

// TestLinks: links to files of the repository lead somewhere, their anchors too.
func TestLinks(t *testing.T) {
	docs := documents(t)
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	n := 0
	for name, text := range docs {
		for _, m := range link.FindAllStringSubmatch(withoutBlocks(text), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			n++
			path := name
			if target != "" {
				path = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(docs[path]), anchor) {
				t.Errorf("%s: %s has no heading #%s", name, path, anchor)
			}
		}
	}
	if n < 10 {
		t.Fatalf("found %d links only", n)
	}
}

// withoutBlocks removes fenced code, where brackets are no links.
func withoutBlocks(text string) string {
	return regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(text, "")
}

func anchors(text string) (out []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		a := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(a, " ", "-"))
	}
	return out
}

// TestMapOfPackages: CONTRIBUTING.md names every package.
func TestMapOfPackages(t *testing.T) {
	text := documents(t)["CONTRIBUTING.md"]
	for _, p := range list(t, "./...") {
		if folder := strings.TrimPrefix(p.ImportPath, module+"/"); p.Name != "main" && !strings.Contains(text, "`"+folder+"`") {
			t.Errorf("the map of packages in CONTRIBUTING.md lacks %s", folder)
		}
	}
}

// tomlKeys lists the keys of a configuration, nested ones with a dot.
func tomlKeys(v reflect.Type, prefix string) (keys []string) {
	for i := range v.NumField() {
		f := v.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "-" {
			continue
		}
		switch {
		case !f.IsExported():
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, tomlKeys(f.Type, prefix+name+".")...)
		default:
			keys = append(keys, prefix+name)
		}
	}
	return keys
}

// TestConfigurationInDocs: docs/operating.md has a row for every key of both
// configuration files and for no other, and the examples are complete.
func TestConfigurationInDocs(t *testing.T) {
	text := documents(t)["docs/operating.md"]
	for _, c := range []struct {
		program, example string
		defaults, loaded any
	}{
		{"uvbond-hypervisor", "hypervisor.toml", hypervisor.DefaultConfig(), &hypervisor.Config{}},
		{"uvbond-server", "server.toml", *config.Default(), &config.Config{}},
	} {
		_, section, ok := strings.Cut(text, "\n## Configuration of "+c.program+"\n")
		if !ok {
			t.Fatalf("docs/operating.md has no section on the configuration of %s", c.program)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var have []string
		for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\| (.*?) \\| (.+) \\|$").FindAllStringSubmatch(section, -1) {
			have = append(have, m[1])
		}
		want := tomlKeys(reflect.TypeOf(c.defaults), "")
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("docs/operating.md: keys of %s:\nhave %v\nwant %v", c.program, have, want)
		}
		meta, err := toml.DecodeFile(filepath.Join(root, "docs/examples", c.example), c.loaded)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range want {
			if !meta.IsDefined(strings.Split(k, ".")...) {
				t.Errorf("docs/examples/%s lacks the key %s", c.example, k)
			}
		}
		if left := meta.Undecoded(); len(left) > 0 {
			t.Errorf("docs/examples/%s has the unknown key %s", c.example, left[0])
		}
	}
}

// TestExamplesAreTheDefaults: the example files say what holds without them.
func TestExamplesAreTheDefaults(t *testing.T) {
	h, err := hypervisor.LoadConfig(filepath.Join(root, "docs/examples/hypervisor.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if want := hypervisor.DefaultConfig(); !reflect.DeepEqual(h, want) {
		t.Errorf("hypervisor.toml: have %+v, want %+v", h, want)
	}
	s, err := config.Load(filepath.Join(root, "docs/examples/server.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.DataDir = s.DataDir // its default depends on the user
	if s.Name != want.Name || s.Listen != want.Listen || s.MetricsListen != want.MetricsListen || s.Gate != want.Gate ||
		s.Log != want.Log || s.Limits != want.Limits || s.Timeouts != want.Timeouts || s.Bases != want.Bases || len(s.Taps) != 0 || len(s.TLS.Names) != 0 || s.TLS.Cert != "" {
		t.Errorf("server.toml: have %+v, want %+v", s, want)
	}
}

// commandLine finds the commands in code blocks: a prompt, or a line of its own.
var commandLine = regexp.MustCompile(`(?m)^(?:[$#] )?(?:runuser -u uvbond-server -- )?(uvbond|uvbond-server|uvbond-hypervisor)((?: [a-z][a-z-]*)+)`)

// TestCommandsInDocs: the commands that README and operating.md show exist.
func TestCommandsInDocs(t *testing.T) {
	docs := documents(t)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "./cmd/...")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := map[string]bool{}
	for _, name := range []string{"README.md", "docs/operating.md"} {
		for _, block := range regexp.MustCompile("(?s)```.*?```").FindAllString(docs[name], -1) {
			for _, m := range commandLine.FindAllStringSubmatch(block, -1) {
				seen[m[1]+m[2]] = true
			}
		}
	}
	if len(seen) < 12 {
		t.Fatalf("found %d commands only: %v", len(seen), seen)
	}
	for line := range seen {
		words := strings.Fields(line)
		if !commandExists(bin, words[0], words[1:]) {
			t.Errorf("the documents show %q, which the program does not know", line)
		}
	}
}

// commandExists asks the program itself. Words behind the command are its
// arguments, and may be anything.
func commandExists(bin, program string, words []string) bool {
	if program == "uvbond-hypervisor" {
		out, err := exec.Command(filepath.Join(bin, program), "help").CombinedOutput()
		return err == nil && bytes.Contains(out, []byte("\n  uvbond-hypervisor "+words[0]+" "))
	}
	for n := len(words); n > 0; n-- {
		out, err := exec.Command(filepath.Join(bin, program), append(slices.Clone(words[:n]), "--help")...).CombinedOutput()
		usage := regexp.MustCompile(`(?m)^ +` + regexp.QuoteMeta(program+" "+strings.Join(words[:n], " ")) + `( |$)`)
		group := bytes.Contains(out, []byte("Available Commands:"))
		if err == nil && usage.Match(out) && (!group || n == len(words)) {
			return true
		}
	}
	return false
}
