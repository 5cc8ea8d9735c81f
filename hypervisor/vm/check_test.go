package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	cfg := testConfig(t)
	for _, f := range Check(cfg) {
		t.Logf("%+v", f)
		if !f.OK && !(f.Name == "confinement" && !isRoot()) {
			t.Errorf("%s: %s; mend with: %s", f.Name, f.Detail, f.Fix)
		}
	}
	cfg.BinaryPath, cfg.FirmwareDir, cfg.RunDir, cfg.Accel = "/nonexistent", "/nonexistent", strings.Repeat("/long", 30), "hvf"
	failed := 0
	for _, f := range Check(cfg) {
		if !f.OK {
			failed++
			if f.Fix == "" || f.Detail == "" {
				t.Errorf("%s does not help: %+v", f.Name, f)
			}
		}
	}
	if failed < 4 {
		t.Errorf("%d findings on a host without anything", failed)
	}
}

func TestCheckFindsAnUnusableQEMU(t *testing.T) {
	cfg := testConfig(t)
	cfg.BinaryPath = "/bin/false"
	if f := Check(cfg)[0]; f.OK {
		t.Errorf("%+v", f)
	}
}

func TestDetectAccel(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	device := write("kvm", "")
	intel := write("intel", "processor : 0\nflags\t\t: fpu vmx aes\n")
	amd := write("amd", "flags\t\t: fpu svm\n")
	plain := write("plain", "flags\t\t: fpu aes vmxnot\nvmx flags\t: svm vmx\n")
	for _, c := range []struct{ device, cpuinfo, want, why string }{
		{device, intel, AccelKVM, "vmx"},
		{device, amd, AccelKVM, "svm"},
		{device, plain, AccelTCG, "neither vmx nor svm"},
		{"/nonexistent", intel, AccelTCG, "cannot be opened"},
		{device, "/nonexistent", AccelTCG, "cannot be read"},
	} {
		accel, why := detectAccel(c.device, c.cpuinfo)
		if accel != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s with %s: %s, %s", c.device, c.cpuinfo, accel, why)
		}
	}
	for _, name := range []string{AccelKVM, AccelTCG} {
		if accel, _, err := (Config{Accel: name}).accel(); accel != name || err != nil {
			t.Errorf("override %s: %s, %v", name, accel, err)
		}
	}
	if _, _, err := (Config{Accel: "hvf"}).accel(); err == nil {
		t.Error("an unknown accelerator was accepted")
	}
}
