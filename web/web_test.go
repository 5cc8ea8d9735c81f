package web

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFresh: what is committed below dist is what the sources give, type errors none.
func TestFresh(t *testing.T) {
	if _, err := os.Stat("node_modules/vite"); err != nil {
		t.Fatal("the page's build tools are missing: make deps (or npm ci in web)")
	}
	fresh := t.TempDir()
	for _, args := range [][]string{{"run", "--silent", "check"}, {"run", "--silent", "build"}} {
		cmd := exec.Command("npm", args...)
		cmd.Env = append(os.Environ(), "UVBOND_DIST="+fresh)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm %s: %v\n%s", args[len(args)-1], err, out)
		}
	}
	want, have := tree(t, os.DirFS(fresh)), tree(t, os.DirFS("dist"))
	if len(want) < 5 {
		t.Fatalf("the build made %d files only", len(want))
	}
	for name := range want {
		if !bytes.Equal(want[name], have[name]) {
			t.Errorf("web/dist/%s is not what the sources give: run make web and commit", name)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			t.Errorf("web/dist/%s is left from an older build: run make web and commit", name)
		}
	}
}

// TestSelfContained: the page names no other place to load from, and has nothing
// inline that its policy would refuse.
func TestSelfContained(t *testing.T) {
	page, err := os.ReadFile("dist/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"http:", "https:", "//", "<style", "style=", "onload", "onclick", "javascript:"} {
		if bytes.Contains(page, []byte(no)) {
			t.Errorf("index.html has %q", no)
		}
	}
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	all := tree(t, files)
	for name, data := range all {
		if len(data) > 1<<20 {
			t.Errorf("%s has %d bytes: more than a file of this repository may", name, len(data))
		}
	}
	notices := all["licenses.txt"]
	for _, name := range []string{"preact ", "@xterm/xterm ", "@xterm/addon-fit ", "@novnc/novnc "} {
		if !bytes.Contains(notices, []byte(name)) {
			t.Errorf("licenses.txt does not name %s", name)
		}
	}
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(lock, []byte(`"resolved"`)) || !bytes.Contains(lock, []byte(`"integrity"`)) {
		t.Error("package-lock.json must have digests, and no addresses of a registry")
	}
}

func tree(t *testing.T, files fs.FS) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out[filepath.ToSlash(path)], err = fs.ReadFile(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
