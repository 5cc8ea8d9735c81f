package lab

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TestCopyProgram: a program that was just copied can be executed, however many other
// processes are being started meanwhile.
func TestCopyProgram(t *testing.T) {
	dir := t.TempDir()
	var work sync.WaitGroup
	for n := range 4 {
		work.Go(func() {
			for i := range 50 {
				program := filepath.Join(dir, fmt.Sprint(n, "-", i))
				if err := CopyProgram("/bin/true", program); err != nil {
					t.Error(err)
				} else if err := exec.Command(program).Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
}
