package disktest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// DirectDir returns a folder of t's own whose files disk.Direct opens for multiples of 512
// bytes: the folder for temporary files or, where that is a tmpfs, one in the package's.
// It skips the test where neither can.
func DirectDir(t testing.TB) string {
	t.Helper()
	dir := FindDirectDir(t)
	if dir == "" {
		t.Skip("O_DIRECT in multiples of 512 bytes is not to be had: set TMPDIR to a folder on a disk")
	}
	return dir
}

// FindDirectDir is DirectDir for tests that have more to do than that: "" instead of a skip.
func FindDirectDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if direct(dir) {
		return dir
	}
	beside, err := os.MkdirTemp(".", ".direct-*")
	if err == nil {
		beside, err = filepath.Abs(beside) // for other processes
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(beside) })
	if !direct(beside) {
		t.Log("O_DIRECT in multiples of 512 bytes is not to be had: it is left out")
		return ""
	}
	return beside
}

// direct says whether the kernel tells (since Linux 6.1) that such multiples will do.
func direct(dir string) bool {
	path := filepath.Join(dir, "direct")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return false
	}
	defer os.Remove(path)
	defer f.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err != nil {
		return false
	}
	return st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align > 0 && st.Dio_offset_align <= 512
}
