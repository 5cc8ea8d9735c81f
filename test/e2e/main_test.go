package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/test/lab"
)

// bin is the folder with the three programs and the demo.
var bin string

// The test binary is also the lab's operator and what speaks to the gate for
// the tests: those need processes with the server's uid.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "operator":
			os.Exit(lab.OperatorMain(os.Args[2]))
		case lab.PassedArg:
			os.Exit(lab.PassedMain(os.Args[2]))
		case "speak":
			os.Exit(speakMain(os.Args[2]))
		case "reach":
			os.Exit(reachMain(os.Args[2]))
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "uvbond-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		bin, err = programs(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// Two tests with a guest each, and one that waits for a client to give up.
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// programs builds what is tested, unless UVBOND_BIN names a folder that has it.
func programs(dir string) (string, error) {
	if given := os.Getenv("UVBOND_BIN"); given != "" {
		return filepath.Abs(given)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/", "../../cmd/...", "../demo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
}
