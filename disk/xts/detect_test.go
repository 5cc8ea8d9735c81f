//go:build amd64 && !purego

package xts

import (
	"os"
	"os/exec"
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
	features := ""
	for i, off := range []string{"", "cpu.avx512vaes=off", "cpu.avx2=off", "cpu.aes=off"} {
		features += "," + off
		limit := []path{vaes512, vaes256, aesNI, portable}[i]
		want := portable
		for _, p := range paths {
			if p <= limit {
				want = p
				break
			}
		}
		c := exec.Command(os.Args[0], "-test.run=^TestDetect$")
		c.Env = append(os.Environ(), variable+"=1", "GODEBUG="+features[1:])
		out, err := c.Output()
		if line := "best:" + want.String() + "\nPASS\n"; err != nil || string(out) != line {
			t.Errorf("without %q: %v, %q, want %q", features, err, out, line)
		}
	}
}
