package vm

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestAdoptDying: a process that was killed has closed its sockets some time before it
// has ended. It has ended by itself, so it is not one that does not answer.
func TestAdoptDying(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	cmd := exec.Command("sleep", "0.3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	start, _, err := processTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{RunDir: t.TempDir()}
	_, err = Adopt(t.Context(), cfg, Record{ID: "00112233445566778899aabbccddeeff", PID: cmd.Process.Pid, StartTime: start, QMPPath: path})
	if !errors.Is(err, ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}
