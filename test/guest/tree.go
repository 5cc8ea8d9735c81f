package guest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tree is a small file system in memory. Folders come from the paths.
type tree struct{ nodes map[string]node }

type node struct {
	mode         fs.FileMode // type bits and permissions
	data         []byte      // content, or target of a symbolic link
	major, minor uint32
}

func newTree() *tree { return &tree{map[string]node{}} }

func (t *tree) file(path string, mode fs.FileMode, data []byte) {
	t.put(path, node{mode: mode, data: data})
}

func (t *tree) link(path, target string) {
	t.put(path, node{mode: fs.ModeSymlink | 0o777, data: []byte(target)})
}

func (t *tree) dir(path string) { t.put(path, node{mode: fs.ModeDir | 0o755}) }

func (t *tree) put(path string, n node) {
	path = strings.TrimPrefix(filepath.Clean(path), "/")
	if parent := filepath.Dir(path); parent != "." {
		if _, ok := t.nodes[parent]; !ok {
			t.dir(parent)
		}
	}
	t.nodes[path] = n
}

// size is what the tree needs on ext4, in bytes, roughly.
func (t *tree) size() int64 {
	n := int64(0)
	for _, f := range t.nodes {
		n += (int64(len(f.data))+4095)&^4095 + 512
	}
	return n
}

// write writes the tree's files below dir.
func (t *tree) write(dir string) error {
	for _, path := range slices.Sorted(maps.Keys(t.nodes)) {
		n, p := t.nodes[path], filepath.Join(dir, path)
		var err error
		switch {
		case n.mode.IsDir():
			err = os.MkdirAll(p, n.mode.Perm())
		case n.mode&fs.ModeSymlink != 0:
			err = os.Symlink(string(n.data), p)
		case n.mode.IsRegular():
			if err = os.WriteFile(p, n.data, n.mode.Perm()); err == nil {
				err = os.Chmod(p, n.mode.Perm()) // whatever the umask
			}
		default:
			err = fmt.Errorf("%s: only an initramfs can hold devices", path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// initramfs encodes the tree as a gzip'ed cpio archive ("newc", see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
func (t *tree) initramfs() ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	ino := 0
	entry := func(name string, mode uint32, n node) error {
		ino++
		head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			ino, mode, 0, 0, 1, 0, len(n.data), 0, 0, n.major, n.minor, len(name)+1, 0, name)
		_, err := z.Write(slices.Concat(padded([]byte(head)), padded(n.data)))
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(t.nodes)) {
		n := t.nodes[path]
		if err := entry(path, cpioMode(n.mode), n); err != nil {
			return nil, err
		}
	}
	if err := entry("TRAILER!!!", 0, node{}); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func padded(b []byte) []byte {
	return append(slices.Clip(b), make([]byte, -len(b)&3)...)
}

func cpioMode(m fs.FileMode) uint32 {
	kind := uint32(0o100000)
	switch {
	case m.IsDir():
		kind = 0o040000
	case m&fs.ModeSymlink != 0:
		kind = 0o120000
	case m&fs.ModeCharDevice != 0:
		kind = 0o020000
	}
	return kind | uint32(m.Perm())
}
