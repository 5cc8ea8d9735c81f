package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// drivers are the names that the guest's scripts load, with the modules each
// is about. What a kernel has built in is simply not found.
var drivers = map[string][]string{
	"filesystem": {"crc32c_generic", "ext4"},
	"virtio":     {"virtio_pci", "virtio_blk"},
	"ide":        {"ata_piix", "sd_mod"},
	"ahci":       {"ahci", "sd_mod"},
	"nvme":       {"nvme"},

	"power":    {"evdev", "button"},
	"pointer":  {"virtio_input", "psmouse"},
	"net":      {"virtio_pci", "virtio_net", "e1000", "af_packet"},
	"seed":     {"nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "vfat"},
	"dm-crypt": {"xts", "ecb", "cbc", "aesni-intel", "dm-mod", "dm-crypt", "af_alg", "algif_skcipher", "algif_hash"},
}

var bootDrivers = []string{"filesystem", "virtio", "ide", "ahci", "nvme"}

// modules knows the modules of one kernel.
type modules struct {
	paths map[string]string   // by normalised name
	deps  map[string][]string // filled as asked for
}

func loadModules(root string) (*modules, error) {
	m := &modules{paths: map[string]string{}, deps: map[string][]string{}}
	err := filepath.WalkDir(filepath.Join(root, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			m.paths[moduleName(filepath.Base(path))] = path
		}
		return err
	})
	if err == nil && len(m.paths) == 0 {
		err = fmt.Errorf("no modules in %s: compressed ones are not supported", root)
	}
	return m, err
}

func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(file, ".ko"), "-", "_")
}

// order lists the modules of a driver so that each comes after what it needs.
func (m *modules) order(driver string) ([]string, error) {
	var out []string
	var visit func(name string) error
	visit = func(name string) error {
		path, ok := m.paths[name]
		if !ok || slices.Contains(out, name) {
			return nil // built in
		}
		if _, ok := m.deps[name]; !ok {
			deps, err := moduleDeps(path)
			if err != nil {
				return err
			}
			m.deps[name] = deps
		}
		for _, d := range m.deps[name] {
			if err := visit(d); err != nil {
				return err
			}
		}
		out = append(out, name)
		return nil
	}
	for _, name := range drivers[driver] {
		if err := visit(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// moduleDeps reads a module's own list of what it needs.
func moduleDeps(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("module %s has no .modinfo", path)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	var deps []string
	for _, field := range bytes.Split(info, []byte{0}) {
		list, ok := strings.CutPrefix(string(field), "depends=")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(list, ",") {
			if d != "" {
				deps = append(deps, moduleName(d))
			}
		}
	}
	return deps, nil
}

// add puts the drivers' modules and their orders into a tree below dir.
func (m *modules) add(t *tree, dir string, names []string) error {
	for _, driver := range names {
		order, err := m.order(driver)
		if err != nil {
			return err
		}
		var list strings.Builder
		for _, name := range order {
			b, err := os.ReadFile(m.paths[name])
			if err != nil {
				return err
			}
			t.file(filepath.Join(dir, name+".ko"), 0o644, b)
			list.WriteString(name + ".ko\n")
		}
		t.file(filepath.Join(dir, driver+".order"), 0o644, []byte(list.String()))
	}
	return nil
}
