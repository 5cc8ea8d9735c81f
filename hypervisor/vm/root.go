package vm

import (
	"os"
	"path/filepath"
)

// rootBinds returns what of the host QEMU sees in its own root: its program, the shared
// libraries and its firmware. Devices, sockets and the rest are added elsewhere.
func rootBinds(binary string) (binds, links []bind) {
	same := func(path string) { binds = append(binds, bind{Source: path, Target: path}) }
	prefixes := []string{"/usr"}
	if p := filepath.Dir(filepath.Dir(binary)); p != "/usr" && p != "/" && p != "." {
		prefixes = append(prefixes, p)
	}
	// On most systems these are links into /usr.
	for _, path := range []string{"/lib", "/lib64"} {
		if to, err := os.Readlink(path); err == nil {
			links = append(links, bind{Source: to, Target: path})
		} else if isDir(path) {
			same(path)
		}
	}
	for _, p := range prefixes {
		for _, sub := range []string{"lib", "lib64", "share/qemu", "share/seabios"} {
			path := filepath.Join(p, sub)
			if info, err := os.Lstat(path); err == nil && info.IsDir() {
				same(path)
			}
		}
	}
	if _, err := os.Stat("/etc/ld.so.cache"); err == nil {
		same("/etc/ld.so.cache")
	}
	same(binary)
	return binds, links
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
