package main

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryInterleaving runs two sessions at once on two connections of one process.
// On one VM the second is one that only looks: two that change it exclude each
// other, which is tried by itself.
func tryInterleaving(t *trial) error {
	r := rand.New(rand.NewPCG(uint64(t.seed), 2))
	first, err := t.lane("left")
	if err != nil {
		return err
	}
	second, err := t.lane("right")
	if err != nil {
		return err
	}
	second.a = first.a
	native, err := sequencesOf(automata.SetNative, diskPlace, []string{"status", "pause", "resume", "reset", "log", "allow"}, 64, 0, r)
	if err != nil {
		return err
	}
	looking := slices.DeleteFunc(slices.Clone(native), func(s sequence) bool { return s.name != "status" && s.name != "log" })
	rounds := 400
	if t.sample {
		rounds = 40
	}
	for round := range rounds {
		if err := first.prepare(false); err != nil {
			return err
		}
		if err := second.prepare(false); err != nil {
			return err
		}
		left, right, other := native[r.IntN(len(native))], native[r.IntN(len(native))], second
		if round%2 == 0 {
			right, other = looking[r.IntN(len(looking))], &lane{t, first.m, first.a}
		}
		if err := t.interleave(r, first, left, other, right); err != nil {
			return err
		}
	}
	return t.exclusion(first)
}

// part is one of two sessions under way.
type part struct {
	l     *lane
	model *session
	nonce [32]byte
	calls []call
	want  []string
	got   []outcome
	moves []move
}

func (l *lane) part(s sequence, conn int) *part {
	p := &part{l: l, want: []string{""}, calls: named(s.mutant.calls, l.m.name)}
	var ticket []byte
	ticket, p.nonce = l.ticketFor(s, false)
	p.model = l.m.begin(s.text, false, true)
	p.model.carries = s.name == "allow"
	p.moves = []move{{Conn: conn, Line: l.m.open(ticket)}}
	for _, c := range p.calls {
		p.moves = append(p.moves, move{Conn: conn, Line: requestOf(c)})
	}
	p.moves = append(p.moves, move{Conn: conn, Line: request(qmp.CmdClose, nil)}, move{Conn: conn, Do: doClose})
	return p
}

// interleave sends the two sessions' hypercalls in an order drawn by lot.
func (t *trial) interleave(r *rand.Rand, l *lane, left sequence, o *lane, right sequence) error {
	parts := []*part{l.part(left, 0), o.part(right, 1)}
	var script []move
	var from []int
	next := []int{0, 0}
	for len(script) < len(parts[0].moves)+len(parts[1].moves) {
		i := r.IntN(2)
		if next[i] == len(parts[i].moves) {
			i = 1 - i
		}
		m := parts[i].moves[next[i]]
		if at := next[i] - 1; at >= 0 && at < len(parts[i].calls) {
			parts[i].step(parts[i].calls[at], &m)
		}
		script, from = append(script, m), append(from, i)
		next[i]++
	}
	out, err := l.a.run(script...)
	if err != nil {
		return err
	}
	for at, o := range out {
		parts[from[at]].got = append(parts[from[at]].got, o)
	}
	for _, p := range parts {
		p.l.m.owe(p.model.refusals)
		why := p.l.judge(p.model, p.nonce, p.calls, p.want, p.got)
		t.note(fmt.Sprintf("%s beside %s", left.mutant, right.mutant), why, p.model.aborted || p.model.verdict() != bond.VerdictDone)
	}
	// On one VM only the first can have changed it.
	if parts[0].l.m != parts[1].l.m {
		parts[1].model.close()
	}
	parts[0].model.close()
	return nil
}

// step asks the model at the moment when the call is sent.
func (p *part) step(c call, m *move) {
	if c.Command == qmp.CmdLaunch || c.Command == qmp.CmdGrow {
		m.Files = []file{{Path: p.l.m.disk, Flags: readWrite}}
	}
	if !parses(c) {
		p.want = append(p.want, qmp.ClassInvalid)
		return
	}
	p.want = append(p.want, p.model.class(c))
}

// exclusion opens two sessions that change one VM: the second one is refused, and
// its ticket is burnt.
func (t *trial) exclusion(l *lane) error {
	if err := l.prepare(false); err != nil {
		return err
	}
	nonce := bond.NewNonce()
	second := l.m.ticket("reset", func(k *bond.Ticket) { k.Nonce = nonce })
	impatient := request(qmp.CmdOpen, qmp.OpenArgs{VM: l.m.id(), Ticket: second, Wait: 1})
	out, err := l.a.run(move{Line: l.m.open(l.m.ticket("pause"))},
		move{Conn: 1, Line: impatient}, move{Conn: 1, Line: impatient}, move{Conn: 1, Do: doClose}, move{Do: doClose})
	if err != nil {
		return err
	}
	why := differs(out[1], qmp.ClassBusy)
	var r bond.Receipt
	if err := bond.Open(l.m.bond, out[1].Receipt, &r); why == "" && (err != nil || r.Nonce != nonce || r.Class != qmp.ClassBusy) {
		why = fmt.Sprintf("its receipt: %v, %s", err, r.Class)
	}
	l.m.owe(1)
	t.refused("two sessions that change one VM", why)
	// The first one ends only when its connection does; until then the ticket is refused.
	t.must("the ticket of the second one, again", out[2], qmp.ClassBusy+"|"+qmp.ClassReplayed, in(l.m))
	return nil
}
