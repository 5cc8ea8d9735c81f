package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// sequence is one attempt: a ticket with a shipped automaton, and hypercalls in
// its session.
type sequence struct {
	set, name string
	canonical string
	text      *text
	mutant    mutant
}

// lanes is how many VMs are attacked at the same time.
const lanes = 3

// sequencesOf returns all mutations of the words of a set's automata.
func sequencesOf(set, disk string, names []string, states, words int, r *rand.Rand) (out []sequence, err error) {
	for _, name := range names {
		f, canonical, t, err := shipped(set, name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Compile(name); err != nil {
			continue // a part that only others import
		}
		w, err := newWalker(f, name, disk, states)
		if err != nil {
			return nil, err
		}
		strange := strangers(disk)
		if set != automata.SetNative {
			strange = draw(r, strange, 6)
		}
		seen := map[string]bool{}
		for _, word := range draw(r, w.words(), words) {
			for _, m := range mutations(word, strange) {
				key := fmt.Sprint(m.calls)
				if !seen[key] {
					seen[key] = true
					out = append(out, sequence{set, name, canonical, t, m})
				}
			}
		}
	}
	return out, nil
}

// trySequences tries every mutation of the native automata on VMs that run, and
// of those of libvirt.
func trySequences(t *trial) error {
	r := rand.New(rand.NewPCG(uint64(t.seed), 1))
	work := make(chan func(*lane) error)
	var wg sync.WaitGroup
	errs := make(chan error, lanes)
	for i := range lanes {
		l, err := t.lane(fmt.Sprintf("lane%d", i))
		if err != nil {
			return err
		}
		wg.Go(func() {
			var first error
			for f := range work {
				if first == nil {
					first = f(l)
				}
			}
			errs <- first
		})
	}
	plan, err := t.plan(r)
	if err != nil {
		return err
	}
	for _, s := range plan {
		work <- func(l *lane) error { return l.try(s) }
	}
	close(work)
	wg.Wait()
	for range lanes {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// diskPlace stands for the disk's name in what is generated for all lanes.
const diskPlace = "the-disk"

func (t *trial) plan(r *rand.Rand) ([]sequence, error) {
	native, err := sequencesOf(automata.SetNative, diskPlace, automata.NativeNames(), 64, 0, r)
	if err != nil {
		return nil, err
	}
	libvirt, err := sequencesOf(automata.SetLibvirt, diskPlace, automata.Names(automata.SetLibvirt), 24, 3, r)
	if err != nil {
		return nil, err
	}
	if t.sample {
		return append(draw(r, native, 150), draw(r, libvirt, 50)...), nil
	}
	return append(native, draw(r, libvirt, 2500)...), nil
}

// lane is a VM and the process that attacks it.
type lane struct {
	t *trial
	m *machine
	a *process
}

func (t *trial) lane(name string) (*lane, error) {
	m, err := t.machine(name, "")
	if err != nil {
		return nil, err
	}
	a, err := t.attacker()
	return &lane{t, m, a}, err
}

// try opens a session under the sequence's ticket, sends it, and holds every
// answer, the receipt and the state afterwards against the model.
func (l *lane) try(s sequence) error {
	calls := named(s.mutant.calls, l.m.name)
	boot := s.set == automata.SetNative && s.name == "start"
	if err := l.prepare(boot); err != nil {
		return err
	}
	ticket, nonce := l.ticketFor(s, boot)
	model := l.m.begin(s.text, boot, true)
	model.carries = s.name == "allow"
	script := []move{{Line: l.m.open(ticket)}}
	want := []string{""}
	for _, c := range calls {
		m := move{Line: requestOf(c)}
		if c.Command == qmp.CmdLaunch || c.Command == qmp.CmdGrow {
			m.Files = []file{{Path: l.m.disk, Flags: readWrite}}
		}
		script = append(script, m)
		if !parses(c) {
			want = append(want, qmp.ClassInvalid)
			continue
		}
		want = append(want, model.class(c))
	}
	if model.chance {
		return nil // it is not tried: nobody can say what must come of it
	}
	script = append(script, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	out, err := l.a.run(script...)
	if err != nil {
		return err
	}
	l.m.owe(model.refusals)
	why := l.judge(model, nonce, calls, want, out)
	model.close()
	name := fmt.Sprintf("%s/%s %s", s.set, s.name, s.mutant)
	l.t.note(name, why, model.aborted || model.verdict() != bond.VerdictDone)
	if why != "" {
		return l.recover()
	}
	if model.launched && l.m.live {
		return l.m.started(out[len(out)-2].Return)
	}
	return nil
}

func (l *lane) ticketFor(s sequence, boot bool) ([]byte, [32]byte) {
	nonce := bond.NewNonce()
	now := time.Now().Unix()
	if boot {
		return l.m.seal(&bond.BootTicket{Nonce: nonce, Command: s.name, Automaton: s.canonical, NotBefore: now - 60, NotAfter: now + 600}), nonce
	}
	t := &bond.Ticket{Nonce: nonce, Command: s.name, Automaton: s.canonical, NotBefore: now - 60, NotAfter: now + 600, Descriptor: l.m.descriptor}
	if s.name == "allow" {
		t.Policy = new(string)
	}
	return l.m.seal(t), nonce
}

func (l *lane) judge(model *session, nonce [32]byte, calls []call, want []string, out []outcome) string {
	if !out[0].ok() {
		return "the session was not opened: " + out[0].String()
	}
	for i, c := range calls {
		if got := out[i+1]; got.Lost != "" || got.Class != want[i+1] {
			return fmt.Sprintf("%s: %s; it must be %s", c, got, orAccepted(want[i+1]))
		}
	}
	closed := out[len(calls)+1]
	if !closed.ok() {
		return "close: " + closed.String()
	}
	r, err := l.m.receipt(closed.Return)
	if err != nil {
		return "receipt: " + err.Error()
	}
	return model.compare(r, nonce)
}

func orAccepted(class string) string {
	if class == "" {
		return "accepted"
	}
	return class
}

// prepare brings the VM to where a session of this kind begins.
func (l *lane) prepare(boot bool) error {
	if boot && l.m.live {
		l.m.powerOff(l.a)
	}
	if err := l.gone(); err != nil || boot {
		return err
	}
	return l.m.ready(l.a)
}

// gone waits until the hypervisor has done away with an instance that ended.
func (l *lane) gone() error { return l.m.gone(l.a) }

func (m *machine) gone(a *process) error {
	if m.live {
		return nil
	}
	for range 1000 {
		state, err := m.seen(a)
		if err != nil || state == qmp.StateStopped || state == qmp.StateCrashed {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("the instance of %s does not end", m.name)
}

// seen is the VM's state as everybody in the management domain may ask it.
func (m *machine) seen(a *process) (string, error) {
	o, err := a.one(request(qmp.CmdQueryVMs, nil))
	if err != nil {
		return "", err
	}
	var q qmp.QueryVMsResult
	if err := json.Unmarshal(o.Return, &q); err != nil {
		return "", fmt.Errorf("%s: %w", o, err)
	}
	for _, v := range q.VMs {
		if v.VM == m.id() {
			return v.State, nil
		}
	}
	return "", fmt.Errorf("%s has no bond", m.name)
}

// recover finds out where the VM is after something went wrong.
func (l *lane) recover() error {
	if err := l.a.ended(2); err != nil {
		return err
	}
	state, err := l.m.seen(l.a)
	if err != nil {
		return err
	}
	if state == qmp.StateStopped || state == qmp.StateCrashed {
		l.m.live, l.m.running = false, false
		return nil
	}
	l.m.powerOff(l.a)
	l.m.live, l.m.running = false, false
	return l.gone()
}

// named puts a VM's disk in the place of what stands for it.
func named(calls []call, disk string) []call {
	b, err := json.Marshal(calls)
	if err != nil {
		panic(err)
	}
	d := json.NewDecoder(strings.NewReader(strings.ReplaceAll(string(b), diskPlace, disk)))
	d.UseNumber()
	var out []call
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	return out
}

func requestOf(c call) json.RawMessage {
	if c.Args == nil {
		return request(c.Command, nil)
	}
	return request(c.Command, c.Args)
}

// parses tells whether a line with this call is one at all: docs/gate.md, Framing.
func parses(c call) bool {
	b, err := json.Marshal(c.Args)
	return err == nil && !strings.Contains(string(b), `\u0000`)
}
