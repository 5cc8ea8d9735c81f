package xts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Environment of the tests of another build: that they are it, and what runs
// programs of their architecture.
const (
	buildVariable    = "XTS_TEST_BUILD"
	emulatorVariable = "XTS_TEST_EMULATOR"
)

// TestPurego runs all tests without assembly.
func TestPurego(t *testing.T) {
	t.Parallel()
	test := build(t, "", "purego")
	if out := run(t, "", test); !strings.Contains(out, "the fastest first: [portable]\n") {
		t.Errorf("not the portable path alone:\n%s", out)
	}
}

// TestARM64 runs all tests on an emulated CPU, with its AES instructions.
func TestARM64(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH == "arm64" {
		t.Skip("this is arm64")
	}
	const emulator = "qemu-aarch64"
	if _, err := exec.LookPath(emulator); err != nil {
		t.Fatalf("%v\nto install what it needs: apt-get install qemu-user", err)
	}
	test := build(t, "arm64", "")
	if out := run(t, emulator, test); !strings.Contains(out, "the fastest first: [arm64 portable]\n") {
		t.Errorf("the emulated CPU's AES instructions were not used:\n%s", out)
	}
}

// TestGenerated: the assembly is what the programs in _asm write.
func TestGenerated(t *testing.T) {
	if os.Getenv(buildVariable) != "" || testing.Short() {
		t.Skip("another build's test, or a short one")
	}
	t.Parallel()
	for program, file := range map[string]string{".": "xts_amd64.s", "./arm64": "xts_arm64.s"} {
		out := filepath.Join(t.TempDir(), file)
		c := exec.Command("go", "run", program, "-out", out)
		c.Dir = "_asm"
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", c.Args, err, text)
		}
		// The first line has the path.
		_, got, _ := bytes.Cut(read(t, out), []byte("\n"))
		_, want, _ := bytes.Cut(read(t, file), []byte("\n"))
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its generator writes: cd disk/xts/_asm && go run %s -out ../%[1]s", file, program)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// build compiles this package's tests for an architecture and tags. Tests of
// tests stop here.
func build(t *testing.T, arch, tags string) string {
	t.Helper()
	if os.Getenv(buildVariable) != "" {
		t.Skip("this is another build's test")
	}
	test := filepath.Join(t.TempDir(), "xts.test")
	c := exec.Command("go", "test", "-c", "-tags", tags, "-o", test, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		c.Env = append(c.Env, "GOARCH="+arch)
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return test
}

// run runs tests to the end, on an emulator if there is one, and returns what
// they print.
func run(t *testing.T, emulator, test string) string {
	t.Helper()
	c := exec.Command(test, "-test.v")
	if emulator != "" {
		c = exec.Command(emulator, test, "-test.v")
	}
	c.Env = append(os.Environ(), buildVariable+"=1", emulatorVariable+"="+emulator)
	out, err := c.CombinedOutput()
	if err != nil || !bytes.HasSuffix(out, []byte("\nPASS\n")) {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return string(out)
}
