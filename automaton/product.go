package automaton

import (
	"errors"
	"fmt"
	"slices"
)

// ErrUndecided is what errors of Includes, Equal, Intersect and Example wrap
// when the question is not answered for these automata.
var ErrUndecided = errors.New("cannot be decided")

// A comparison looks at so many pairs of states, and steps so often from one.
const (
	maxPairs     = 1 << 18
	maxPairSteps = 1 << 22
)

// product reads two deterministic machines with one alphabet, whose classes
// neither's predicates can tell apart.
type product struct {
	left, right side
	letters     *alphabet
	steps       int // taken so far
}

// tooLarge is why a walk through pairs stops.
func (p *product) tooLarge(walk *pairs) error {
	if len(walk.list) <= maxPairs && p.steps <= maxPairSteps {
		return nil
	}
	return fmt.Errorf("automata %s and %s are too large together: this %w", tick(p.left.m.name), tick(p.right.m.name), ErrUndecided)
}

// side is one machine and how its numbers translate.
type side struct {
	m     *Machine
	names []int32 // by name of the common alphabet: its own, or -1
	place []int32 // by its pattern: the bit in the common classes, or -1
}

// newProduct keeps only the hypercalls in names, which are sorted.
func newProduct(a, b *Machine, names []string) (*product, error) {
	for _, m := range []*Machine{a, b} {
		switch {
		case m.det != nil:
		case m.slots > 0:
			return nil, fmt.Errorf("automaton %s keeps values in captures: this %w", tick(m.name), ErrUndecided)
		default:
			return nil, fmt.Errorf("automaton %s is too large for a deterministic machine: this %w", tick(m.name), ErrUndecided)
		}
	}
	p := &product{left: side{m: a}, right: side{m: b}}
	var preds []*value
	var nameOf []int32
	for _, s := range []*side{&p.left, &p.right} {
		for _, name := range names {
			own, known := s.m.names[name]
			if !known {
				own = -1
			}
			s.names = append(s.names, own)
		}
		s.place = make([]int32, len(s.m.letters.preds)) // the pattern for now
		for i, own := range s.m.letters.nameOf {
			s.place[i] = -1
			if at, found := slices.BinarySearch(names, s.m.commands[own]); found {
				s.place[i] = int32(len(preds))
				preds, nameOf = append(preds, s.m.letters.preds[i]), append(nameOf, int32(at))
			}
		}
	}
	if p.letters = newAlphabet(names, preds, nameOf, maxAlgebra); p.letters == nil {
		return nil, fmt.Errorf("the arguments of automata %s and %s have too many cases: this %w", tick(a.name), tick(b.name), ErrUndecided)
	}
	return p, nil
}

// next returns the state of one side after a letter, or dead.
func (p *product) next(s *side, d *dfa, state, letter int32) int32 {
	p.steps++
	name := p.letters.letter[letter]
	if s.names[name] < 0 {
		return dead
	}
	mask := p.letters.class(letter).mask
	return d.next(state, s.names[name], func(pattern int32) bool {
		return mask.has(int(p.letters.place[s.place[pattern]]))
	})
}

// call returns the example of a letter.
func (p *product) call(letter int32) Call { return p.letters.call(letter) }

func (a *alphabet) call(letter int32) Call {
	args, _ := a.class(letter).example.(map[string]any)
	return Call{Command: a.names[a.letter[letter]], Arguments: args}
}

// pairs walks through the states that both sides reach together, nearest
// first.
type pairs struct {
	list  [][2]int32
	known map[[2]int32]int32
	from  []int32 // the pair before, -1 at the start
	by    []int32 // the letter from there
}

func newPairs() *pairs {
	p := &pairs{known: map[[2]int32]int32{}}
	p.visit([2]int32{0, 0}, -1, -1)
	return p
}

func (p *pairs) visit(at [2]int32, from, by int32) int32 {
	if n, old := p.known[at]; old {
		return n
	}
	n := int32(len(p.list))
	p.known[at] = n
	p.list, p.from, p.by = append(p.list, at), append(p.from, from), append(p.by, by)
	return n
}

// trace returns the letters on the way to pair n.
func (p *pairs) trace(n int32) []int32 {
	var letters []int32
	for ; p.from[n] >= 0; n = p.from[n] {
		letters = append(letters, p.by[n])
	}
	slices.Reverse(letters)
	return letters
}
