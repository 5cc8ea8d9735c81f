package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/automaton/learn"
)

// TestRecordAtTheGate stands between the management server and the gate, as its
// user, and records what the native toolstack sends: each session is one that the
// shipped automaton accepts, and holds no ticket.
func TestRecordAtTheGate(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	u.disk(raw, "web.luks")

	w.lab.StopServer(syscall.SIGTERM)
	folder := filepath.Join(w.lab.Dir, "server")
	w.lab.ServerGate = filepath.Join(folder, "record.sock")
	cmd := w.lab.ServerCommand(t.Context(), "uvbond", "automaton", "record", "--gate", "--listen", w.lab.ServerGate,
		"--connect", w.lab.Gate, "--count", "3", "--out", filepath.Join(folder, "native.jsonl"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !eventually(20*time.Second, func() bool { _, err := os.Stat(w.lab.ServerGate); return err == nil }) {
		t.Fatalf("no recorder: %s", said.String())
	}
	if err := w.lab.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.run(exitDone, "vm", "create", "web1", "--host", "lab", "--disk", "web.luks", "--memory", "64MiB", "--cpus", "1", "--passphrase-file", "passphrase")
	for _, command := range []string{"start", "pause", "resume"} {
		u.run(exitDone, "vm", command, "web1")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	for i, command := range []string{"start", "pause", "resume"} {
		data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("native-%d.jsonl", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("ticket")) || bytes.Contains(data, []byte("receipt")) {
			t.Errorf("%s: a ticket or a receipt was recorded:\n%s", command, data)
		}
		rec, err := automaton.ReadRecording(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		f, err := automata.Load(automata.SetNative, command)
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile(command)
		if err != nil {
			t.Fatal(err)
		}
		if v := learn.Hold(m, learn.Session{Name: command, Recording: rec}); !v.Accepted {
			t.Errorf("%s: %s\n%s", command, v.Reason, data)
		}
	}
}
