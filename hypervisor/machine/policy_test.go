package machine

import (
	"errors"
	"testing"
	"time"

	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// as executes a command as somebody whose pause may last.
func (b *bonded) as(command string, p *gate.Pause) {
	b.w.t.Helper()
	if _, err := b.machine().Execute(b.w.t.Context(), b.machine().Current().Number, command, nil, p); err != nil {
		b.w.t.Fatalf("%s: %v", command, err)
	}
}

func (b *bonded) waits() bool {
	m := b.machine()
	m.pausing.Lock()
	defer m.pausing.Unlock()
	return m.pauser.waiting.Instance != 0
}

// TestPauseEnds: the hypervisor resumes what operators paused for too long, says
// so, and leaves alone what the owner paused.
func TestPauseEnds(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	short, long := &gate.Pause{Name: "pause", Most: 50 * time.Millisecond}, &gate.Pause{Name: "pause", Most: time.Hour}

	b.as(qmp.CmdStop, short)
	eventually(t, "resumed", func() bool { return b.machine().State() == qmp.StateRunning && !b.waits() })
	if !b.recorded("policy", "resumed: it may not stay paused any longer") {
		t.Errorf("the audit does not say so: %+v", b.audit())
	}

	// Paused again: the first pause counts.
	b.as(qmp.CmdStop, long)
	first := b.machine().pauser.waiting
	b.as(qmp.CmdStop, &gate.Pause{Name: "pause", Most: 2 * time.Hour})
	if b.machine().pauser.waiting != first {
		t.Error("a second pause prolongs the first")
	}
	// Who resumes it, ends the waiting.
	b.as(qmp.CmdCont, nil)
	if b.waits() {
		t.Error("after a resume the hypervisor still waits")
	}

	// The owner pauses it as well: it stays paused.
	b.as(qmp.CmdStop, long)
	b.as(qmp.CmdStop, nil)
	if b.waits() {
		t.Error("the owner's pause is ended by the operators' limit")
	}
	// And what the owner paused, operators do not make resume.
	b.as(qmp.CmdStop, short)
	if b.waits() || b.machine().State() != qmp.StatePaused {
		t.Error("the owner's pause ends because operators pause too")
	}

	// The end of the instance ends it.
	b.as(qmp.CmdCont, nil)
	b.as(qmp.CmdStop, long)
	b.exec(qmp.CmdQuit)
	b.up()
	if b.machine().State() != qmp.StateRunning {
		t.Error("a new instance is paused")
	}
}

// TestPauseAcrossRestart: a restart of the daemon neither forgets nor prolongs a
// pause.
func TestPauseAcrossRestart(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	b.as(qmp.CmdStop, &gate.Pause{Name: "pause", Most: time.Hour})
	w.restart(nil)
	if !b.waits() || b.machine().State() != qmp.StatePaused {
		t.Fatal("after a restart the hypervisor does not wait")
	}
	// As if the hour had passed while the daemon was down.
	rec := b.machine().pauser.waiting
	rec.Resume -= 2 * 3600
	if err := w.store.Update(func(tx *state.Tx) error { return tx.SetPause(b.id, rec) }); err != nil {
		t.Fatal(err)
	}
	w.restart(nil)
	eventually(t, "resumed", func() bool { return b.machine().State() == qmp.StateRunning && !b.waits() })
}

func TestCountAcrossRestart(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	use := gate.Use{Name: "pause", Rule: &policy.Rule{Names: []string{"pause"}, Limits: []policy.Limit{{Uses: 1, Period: time.Hour}}}}
	if err := b.machine().Count(use, state.Entry{Kind: "call", Text: "stop accepted"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var full *policy.UsedUpError
		if err := b.machine().Count(use, state.Entry{Kind: "call", Text: "never"}); !errors.As(err, &full) {
			t.Errorf("used up, but: %v", err)
		}
		w.restart(nil)
	}
	if !b.recorded("call", "stop accepted") || b.recorded("call", "never") {
		t.Error("the audit does not tell a use from a refusal")
	}
	if err := b.machine().SetPolicy("rule a = limit 1 per 1h pause 5min ; automaton a = stop ;"); err != nil {
		t.Fatal(err)
	}
	w.restart(nil)
	if r := b.machine().Policy().Rule("a"); r == nil || r.Pause != 5*time.Minute {
		t.Errorf("after a restart the rule is %+v", r)
	}
}
