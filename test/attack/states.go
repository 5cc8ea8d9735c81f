package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
)

// The files of the hypervisor's state: see hypervisor/state.
const (
	stateDB  = "state.db"
	stateKey = "state.key"
)

// tryState changes the files of the hypervisor's state while the daemon is down,
// as nobody in the management domain can (kind reach), but a thief of the disk or
// a careless restore might. The daemon refuses to start, or nothing is changed.
// An old copy of all of it opens: there is no counter that nobody can set back. The
// owner sees it by the audit log, which lacks what a receipt says is in it.
func tryState(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("state", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	t.lab.KillHypervisor()
	old, err := t.copyState()
	if err != nil {
		return err
	}
	if a, err = t.up(); err != nil {
		return err
	}
	used := m.ticket("status")
	if err := t.present(a, "a ticket after the copy", m, used, "", nowhere()); err != nil {
		return err
	}
	var receipt *bond.Receipt
	for range 4 { // more than is done on the old copy below
		if receipt, err = m.status(a); err != nil {
			return err
		}
	}
	t.lab.KillHypervisor()
	whole, err := t.copyState()
	if err != nil {
		return err
	}
	if err := t.damage(m, whole); err != nil {
		return err
	}
	if err := t.oldCopy(m, old, used, receipt); err != nil {
		return err
	}
	if err := t.putState(whole); err != nil {
		return err
	}
	_, err = t.up()
	t.accepted("the daemon with its own state again", orNil(err))
	return err
}

// stateFiles is a copy of the state.
type stateFiles map[string][]byte

func (t *trial) stateDir() string { return filepath.Join(t.lab.Dir, "hypervisor", "state") }

func (t *trial) copyState() (stateFiles, error) {
	out := stateFiles{}
	for _, name := range []string{stateDB, stateKey} {
		b, err := os.ReadFile(filepath.Join(t.stateDir(), name))
		if err != nil {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

// putState makes the state what files say; a nil content is a file that is missing.
func (t *trial) putState(files stateFiles) error {
	list, err := os.ReadDir(t.stateDir())
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := os.Remove(filepath.Join(t.stateDir(), e.Name())); err != nil {
			return err
		}
	}
	for name, b := range files {
		if b == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(t.stateDir(), name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) up() (*process, error) {
	if err := t.lab.StartHypervisor(t.ctx); err != nil {
		return nil, err
	}
	return t.attacker()
}

// damage starts the daemon on state that was edited, cut, swapped.
func (t *trial) damage(m *machine, whole stateFiles) error {
	r := rand.New(rand.NewPCG(uint64(t.seed), 3))
	db := whole[stateDB]
	with := func(name string, change func([]byte) []byte) stateFiles {
		out := stateFiles{stateDB: whole[stateDB], stateKey: whole[stateKey]}
		out[name] = change(bytes.Clone(out[name]))
		return out
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	none := func([]byte) []byte { return nil }
	foreign, err := foreignState()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name  string
		files stateFiles
	}{
		{"the database cut in half", with(stateDB, cut(len(db)/2/4096*4096))}, {"the database cut within a page", with(stateDB, cut(len(db)/2+17))},
		{"the database empty", with(stateDB, cut(0))}, {"the database missing", with(stateDB, none)},
		{"the key missing", with(stateKey, none)}, {"the key cut", with(stateKey, cut(31))}, {"another key", with(stateKey, func(b []byte) []byte { b[0] ^= 1; return b })},
		{"the database of another host", stateFiles{stateDB: foreign[stateDB], stateKey: whole[stateKey]}},
		{"the key of another host", stateFiles{stateDB: whole[stateDB], stateKey: foreign[stateKey]}},
	} {
		if err := t.putState(c.files); err != nil {
			return err
		}
		why := ""
		if err := t.lab.StartHypervisor(t.ctx); err == nil {
			why = "the daemon started"
			t.lab.KillHypervisor()
		}
		t.refused(c.name, why)
	}
	n := 60
	if t.sample {
		n = 6
	}
	for range n {
		at, bit := r.IntN(len(db)), byte(1)<<r.IntN(8)
		if err := t.edited(m, with(stateDB, func(b []byte) []byte { b[at] ^= bit; return b }), fmt.Sprintf("bit %#x of byte %d of the database", bit, at)); err != nil {
			return err
		}
		page, other := r.IntN(len(db)/4096), r.IntN(len(db)/4096)
		if page == other {
			continue
		}
		swap := func(b []byte) []byte {
			copy(b[page*4096:], db[other*4096:(other+1)*4096])
			copy(b[other*4096:], db[page*4096:(page+1)*4096])
			return b
		}
		if err := t.edited(m, with(stateDB, swap), fmt.Sprintf("pages %d and %d of the database swapped", page, other)); err != nil {
			return err
		}
	}
	return nil
}

// edited starts the daemon on a database with one change. Parts that are not in
// use may have any content; everything else is noticed at once, but the body of an
// audit record, which is noticed when it is read.
func (t *trial) edited(m *machine, files stateFiles, name string) error {
	if err := t.putState(files); err != nil {
		return err
	}
	if err := t.lab.StartHypervisor(t.ctx); err != nil {
		t.refused(name, "")
		return t.ctx.Err()
	}
	defer t.lab.KillHypervisor()
	a, err := t.attacker()
	if err != nil {
		return err
	}
	defer a.close()
	whole := &machine{w: t.world, name: m.name, bond: m.bond, live: true, descriptor: m.descriptor}
	records, err := whole.audit(a)
	switch {
	case err != nil:
		t.refused(name, "")
	case len(records) == 0 || whole.next < m.next:
		t.refused(name, fmt.Sprintf("the audit log has %d records, it had %d", whole.next, m.next))
	default:
		t.accepted(name+": not in use", "")
	}
	return nil
}

// oldCopy puts an old state back. The daemon cannot know; the owner can.
func (t *trial) oldCopy(m *machine, old stateFiles, used []byte, newest *bond.Receipt) error {
	if err := t.putState(old); err != nil {
		return err
	}
	a, err := t.up()
	if err != nil {
		return err
	}
	defer t.lab.KillHypervisor()
	// As docs/operating.md says: no check of this host can know.
	if err := t.present(a, "a ticket used since the copy, on the old copy", m, used, "", nowhere()); err != nil {
		return err
	}
	again := &machine{w: t.world, name: m.name, bond: m.bond, live: true, descriptor: m.descriptor}
	r, err := again.status(a)
	if err != nil {
		return err
	}
	// The owner's client has seen a longer log, with another record at this place.
	if _, err := again.audit(a); err != nil {
		return err
	}
	why := ""
	if r.AuditSeq >= newest.AuditSeq || r.AuditHead == newest.AuditHead {
		why = fmt.Sprintf("its receipt tells of %d records, the newest one before of %d", r.AuditSeq, newest.AuditSeq)
	}
	t.refused("an old copy of the state, in its owner's eyes", why)
	return nil
}

// foreignState is the state of another host.
func foreignState() (stateFiles, error) {
	dir, err := os.MkdirTemp("", "uvstate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := state.Open(filepath.Join(dir, "state"), state.Options{})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	out := stateFiles{}
	for _, name := range []string{stateDB, stateKey} {
		if out[name], err = os.ReadFile(filepath.Join(dir, "state", name)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// settleHost reads the host's own log, after the daemon was stopped, and holds it
// against the refusals that belong to no bond.
func (w *world) settleHost() error {
	if code := w.lab.StopHypervisor(terminate); code != 0 {
		return fmt.Errorf("the daemon ended with code %d", code)
	}
	s, err := state.Open(filepath.Join(w.lab.Dir, "hypervisor", "state"), state.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	got, head, last := 0, [32]byte{}, []string(nil)
	for from, more := uint64(0), true; more; {
		p, err := s.ReadAudit(state.HostLog, from, 1<<20)
		if err != nil {
			return err
		}
		h, records, err := bond.VerifyChain(p.Records, p.From, head)
		if err != nil {
			return err
		}
		for _, r := range records {
			last = append(last, r.Text)
		}
		last = last[max(0, len(last)-4):]
		got, head, from, more = got+attempts(records), h, p.Next, p.More
	}
	if got != w.hostLog {
		return fmt.Errorf("it tells of %d attempts, there were %d; it ends with %q", got, w.hostLog, last)
	}
	return nil
}
