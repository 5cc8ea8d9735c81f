package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
)

// The writer runs in a process of its own, which is killed at a random moment.
// It writes one line to standard output after each operation that returned nil.
const writerEnv = "UVBOND_STATE_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		fmt.Fprintln(os.Stderr, writer(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func writer(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	fmt.Printf("host %s\n", s.HostKey().Public().ID())
	expiry := time.Now().Unix() + 3600
	for round := 0; ; round++ {
		r, err := newRecord(s.HostKey(), 0x33)
		if err != nil {
			return err
		}
		vm := r.Bond.VM()
		if err := s.AddBond(r, Entry{Kind: "registration"}); err != nil {
			return err
		}
		fmt.Printf("bond %s\n", vm)
		for n := byte(1); n <= 5; n++ {
			var h Head
			err := s.Update(func(t *Tx) error {
				if err := t.UseNonce(vm, [32]byte{n}, expiry); err != nil {
					return err
				}
				if err := t.PutInstance(vm, InstanceRecord{Number: uint64(n), BootNonce: [32]byte{n}}); err != nil {
					return err
				}
				h, err = t.Append(vm, Entry{Kind: "open"}, Entry{Kind: "call"}, Entry{Kind: "close"})
				return err
			})
			if err != nil {
				return err
			}
			fmt.Printf("session %s %d %x %d\n", vm, h.Seq, h.Hash, n)
			if err := s.EndInstance(vm, "quit"); err != nil {
				return err
			}
			fmt.Printf("end %s %d\n", vm, n)
		}
		if round%3 == 2 {
			if _, err := s.DeleteBond(vm, Entry{Kind: "deleted"}); err != nil {
				return err
			}
			fmt.Printf("delete %s\n", vm)
		}
	}
}

// acked is what the writer was told is durable.
type acked struct {
	host    string
	bonds   map[string]bool // false: deleted
	nonces  map[string]int
	ends    map[string]int
	heads   map[string]map[uint64]string
	deletes int
}

func (a *acked) line(line string) {
	var vm, hash string
	var n int
	var seq uint64
	switch {
	case scan(line, "host %s", &hash):
		a.host = hash
	case scan(line, "bond %s", &vm):
		a.bonds[vm], a.heads[vm] = true, map[uint64]string{}
	case scan(line, "session %s %d %s %d", &vm, &seq, &hash, &n):
		a.nonces[vm], a.heads[vm][seq] = n, hash
	case scan(line, "end %s %d", &vm, &n):
		a.ends[vm] = n
	case scan(line, "delete %s", &vm):
		a.bonds[vm] = false
		a.deletes++
	}
}

func scan(line, format string, args ...any) bool {
	n, err := fmt.Sscanf(line, format, args...)
	return err == nil && n == len(args)
}

func TestKilledWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	a := &acked{bonds: map[string]bool{}, nonces: map[string]int{}, ends: map[string]int{}, heads: map[string]map[uint64]string{}}
	begin := time.Now()
	rounds := 0
	// On a busy machine fewer rounds, but until the writer got through one of each.
	for ; rounds < 25 && time.Since(begin) < 8*time.Second || a.deletes == 0 && time.Since(begin) < time.Minute; rounds++ {
		runAndKill(t, dir, a, time.Duration(rand.Int64N(int64(300*time.Millisecond))))
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", rounds, err)
		}
		a.check(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d bonds, %d deleted", rounds, len(a.bonds), a.deletes)
	if a.deletes == 0 {
		t.Error("the writer never got as far as a deletion: the test shows too little")
	}
}

func runAndKill(t *testing.T, dir string, a *acked, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr io.ReadCloser
	if stderr, err = cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			break // half a line is no acknowledgement
		}
		a.line(line)
	}
	why, _ := io.ReadAll(stderr)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("writer stopped by itself: %v: %s", err, why)
	}
}

func (a *acked) check(t *testing.T, s *Store) {
	t.Helper()
	if a.host != "" && s.HostKey().Public().ID().String() != a.host {
		t.Fatal("the identity changed")
	}
	err := s.View(func(tx *Tx) error {
		ids, err := tx.VMs()
		if err != nil {
			return err
		}
		for id, alive := range a.bonds {
			vm, err := bond.ParseVMID(id)
			if err != nil {
				return err
			}
			used, err := tx.Used(vm)
			if err != nil || used == nil {
				t.Errorf("%s is not marked used: %v", vm, err)
			}
			found := slices.Contains(ids, vm)
			if !alive && found {
				t.Errorf("deleted bond %s is back", vm)
			}
			// A deletion may have been committed without its line having come out.
			if alive && !found && (used == nil || used.Deleted == 0) {
				t.Errorf("bond %s is gone", vm)
			}
		}
		for _, vm := range ids {
			a.checkBond(t, tx, vm)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func (a *acked) checkBond(t *testing.T, tx *Tx, vm bond.VMID) {
	t.Helper()
	id := vm.String()
	if _, err := tx.Bond(vm); err != nil {
		t.Error(err)
	}
	p, err := tx.ReadAudit(vm, 0, 1<<20)
	if err != nil {
		t.Error(err)
		return
	}
	if len(p.Records) == 0 || p.More || (p.Next-1)%3 != 0 {
		t.Errorf("%s: half a session in the log: %s", vm, kinds(t, p))
	}
	// Nonce, instance and records of one session are there together or not at all.
	sessions := int(p.Next-1) / 3
	if sessions < a.nonces[id] {
		t.Errorf("%s: %d sessions, %d were acknowledged", vm, sessions, a.nonces[id])
	}
	for n := 1; n <= 6; n++ {
		var w nonceWire
		key := append(vm[:], make([]byte, 32)...)
		key[len(vm)] = byte(n)
		used, err := tx.get(bucketNonces, key, &w)
		if err != nil || used != (n <= sessions) {
			t.Errorf("%s: nonce %d used: %v, %v, with %d sessions", vm, n, used, err, sessions)
		}
	}
	next, err := tx.NextInstance(vm)
	if err != nil || int(next) != sessions+1 {
		t.Errorf("%s: next instance %d after %d sessions, %v", vm, next, sessions, err)
	}
	if end, err := tx.LastEnd(vm); err != nil || a.ends[id] > 0 && (end == nil || int(end.Number) < a.ends[id]) {
		t.Errorf("%s: end of instance %d is lost: %v", vm, a.ends[id], err)
	}
	head := p.Prev
	for i, rec := range p.Records {
		head = bond.HashRecord(head, rec)
		if want := a.heads[id][uint64(i+1)]; want != "" && want != fmt.Sprintf("%x", head) {
			t.Errorf("%s: head %d differs from the acknowledged one", vm, i+1)
		}
	}
	verified(t, p)
}
