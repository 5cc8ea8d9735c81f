package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRunFolderIsOwn(t *testing.T) {
	dir := t.TempDir()
	good, open, link := filepath.Join(dir, "good"), filepath.Join(dir, "open"), filepath.Join(dir, "link")
	for _, d := range []string{good, open} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(good); err != nil {
		t.Error(err)
	}
	bad := []string{open, link, filepath.Join(dir, "missing")}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(dir, "foreign")
		if err := os.Mkdir(foreign, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		bad = append(bad, foreign)
	}
	for _, d := range bad {
		if ownFolder(d) == nil {
			t.Errorf("%s was accepted", filepath.Base(d))
		}
	}
}
