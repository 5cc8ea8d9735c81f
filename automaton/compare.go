package automaton

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Difference is a shortest sequence that one automaton accepts and another
// does not.
type Difference struct {
	Accepts string // the automaton that accepts it
	Refuses string // the one that does not
	Calls   []Call
	// Aborted tells that Calls follow an abort: the on-abort parts differ.
	Aborted bool
	// Ends tells that both let Calls through, but that only the one that
	// accepts may end there. Otherwise the last of Calls is refused.
	Ends bool
}

// String says it in words, one hypercall a line.
func (d *Difference) String() string {
	var b strings.Builder
	what := "refuses the last of"
	if d.Ends {
		what = "may not end after"
	}
	when := ""
	if d.Aborted {
		when = "after an abort, "
	}
	fmt.Fprintf(&b, "%s%s accepts and %s %s:", when, tick(d.Accepts), tick(d.Refuses), what)
	if len(d.Calls) == 0 {
		b.WriteString("\n    (no hypercall)")
	}
	for _, c := range d.Calls {
		b.WriteString("\n    " + c.String())
	}
	return b.String()
}

// Includes tells whether whole accepts all that part accepts: every hypercall
// that part lets through, at every point, also after an abort, and every end.
// It returns nil if so, else a counter-example, which for machines without
// captures is a shortest one. Deadlines are not compared. With captures the
// answer is right where there is one, and there is none where it depends on
// values in a way that is not looked through: errors wrap ErrUndecided.
func Includes(whole, part *Machine) (*Difference, error) {
	if whole.slots > 0 || part.slots > 0 {
		return includesLoosely(whole, part)
	}
	p, err := newProduct(part, whole, part.commands)
	if err != nil {
		return nil, err
	}
	d, err := p.includes()
	if err != nil {
		return nil, err
	}
	return d, p.replay(d)
}

// includes compares the bodies and the on-abort parts.
func (p *product) includes() (*Difference, error) {
	body, err := p.difference(p.left.m.det.body, p.right.m.det.body)
	if err != nil {
		return nil, err
	}
	abort, err := p.difference(p.left.m.det.abort, p.right.m.det.abort)
	if err != nil {
		return nil, err
	}
	if abort != nil {
		abort.Aborted = true
	}
	return shorter(body, abort), nil
}

// Equal tells whether two machines accept the same. It returns nil if so, else
// a shortest sequence that one of them does not accept; errors are those of
// Includes.
func Equal(a, b *Machine) (*Difference, error) {
	more, err1 := Includes(b, a)
	less, err2 := Includes(a, b)
	// Where one direction cannot be decided the other may still tell.
	if d := shorter(more, less); d != nil {
		return d, nil
	}
	return nil, cmp.Or(err1, err2)
}

// shorter prefers the first.
func shorter(a, b *Difference) *Difference {
	if a == nil || b != nil && len(b.Calls) < len(a.Calls) {
		return b
	}
	return a
}

// difference looks for the nearest point where left goes on or ends and right
// does not.
func (p *product) difference(left, right *dfa) (*Difference, error) {
	walk := newPairs()
	found := func(letters []int32, ends bool) *Difference {
		d := &Difference{Accepts: p.left.m.name, Refuses: p.right.m.name, Ends: ends}
		for _, letter := range letters {
			d.Calls = append(d.Calls, p.call(letter))
		}
		return d
	}
	for i := int32(0); i < int32(len(walk.list)); i++ {
		at := walk.list[i]
		if left.states[at[0]].accept && !right.states[at[1]].accept {
			return found(walk.trace(i), true), nil
		}
		for _, row := range left.states[at[0]].rows {
			// Commands of the left side are the alphabet, in the same order.
			for n := range p.letters.classes[row.name] {
				letter := p.letters.first[row.name] + int32(n)
				to := [2]int32{p.next(&p.left, left, at[0], letter)}
				if to[0] == dead {
					continue
				}
				if to[1] = p.next(&p.right, right, at[1], letter); to[1] == dead {
					return found(append(walk.trace(i), letter), false), nil
				}
				walk.visit(to, i, letter)
			}
		}
		if err := p.tooLarge(walk); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// replay holds a difference against the machines that sessions are held to.
func (p *product) replay(d *Difference) error {
	if d == nil {
		return nil
	}
	if !d.holds(p.left.m, p.right.m) {
		return errors.New("a counter-example does not hold: this is an error in UVBond, please report it")
	}
	return nil
}

// holds tells that accepts takes it and refuses does not.
func (d *Difference) holds(accepts, refuses *Machine) bool {
	takes := func(m *Machine) bool {
		run, accepted := m.after(d.Aborted, d.Calls)
		return accepted && (!d.Ends || run.Done())
	}
	return takes(accepts) && !takes(refuses)
}
