//go:build (amd64 || arm64) && !purego

package xts

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// TestDetect hides the CPU's features one after another; where the CPU lacks
// one, the paths above it are not there either.
func TestDetect(t *testing.T) {
	const variable = "XTS_TEST_DETECT"
	if os.Getenv(variable) != "" {
		if _, err := os.Stdout.WriteString("best:" + paths[0].String() + "\n"); err != nil {
			t.Fatal(err)
		}
		return
	}
	steps := []struct {
		off  string
		best path
	}{{"", vaes512}, {"cpu.avx512vaes=off", vaes256}, {"cpu.avx2=off", aesNI}, {"cpu.aes=off", portable}}
	if runtime.GOARCH == "arm64" {
		steps[0].best = armAES
		steps = append(steps[:1], steps[3:]...)
	}
	features := ""
	for _, step := range steps {
		features += "," + step.off
		want := portable
		for _, p := range paths {
			if p <= step.best {
				want = p
				break
			}
		}
		command := []string{os.Args[0], "-test.run=^TestDetect$"}
		if emulator := os.Getenv(emulatorVariable); emulator != "" {
			command = append([]string{emulator}, command...)
		}
		c := exec.Command(command[0], command[1:]...)
		c.Env = append(os.Environ(), variable+"=1", "GODEBUG="+features[1:])
		out, err := c.Output()
		if line := "best:" + want.String() + "\nPASS\n"; err != nil || string(out) != line {
			t.Errorf("without %q: %v, %q, want %q", features, err, out, line)
		}
	}
}
