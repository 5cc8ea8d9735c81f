package automaton

import (
	"encoding/json"
	"slices"
)

// A class is a set of JSON values that some predicates cannot tell apart: mask
// says which of them hold, example is a value for which it is so. The classes
// of some predicates are together all values, and none of them is empty, so
// that machines over them are exact: a letter of the classical DFA is a
// hypercall's name and a class of its arguments.
type class struct {
	mask    bits
	example any
}

// splitter finds classes within a budget; beyond it failed is set.
type splitter struct {
	work   int
	failed bool
	match  matcher
}

const (
	maxClasses    = 1024    // of the predicates of one hypercall
	maxSplitWork  = 1 << 20 // elementary operations for one machine
	maxAlgebra    = 1 << 22 // the same where an answer is worth waiting for
	splitCost     = 1200    // of the least split, in these operations
	examplesFresh = "other"
)

func (s *splitter) spend(n int) bool {
	s.work -= n
	if s.work < 0 {
		s.failed = true
	}
	return !s.failed
}

// classSet collects classes; the first example of a mask stays.
type classSet struct {
	known map[string]struct{}
	list  []class
}

func (c *classSet) add(mask bits, example any) {
	key := mask.key()
	if _, old := c.known[key]; old {
		return
	}
	if c.known == nil {
		c.known = map[string]struct{}{}
	}
	c.known[key] = struct{}{}
	c.list = append(c.list, class{mask, example})
}

// split returns the classes of all JSON values under preds, which hold no
// captures.
func (s *splitter) split(preds []*value) []class {
	if !s.spend(splitCost) {
		return nil
	}
	// A choice of values is taken apart, and equal parts are seen once.
	var atoms []*value
	index := map[string]int{}
	parts := make([][]int, len(preds))
	for i, p := range preds {
		alternatives := []*value{p}
		if p.kind == valueOneOf {
			alternatives = p.items
		}
		for _, a := range alternatives {
			text := formatValue(a, nil)
			n, known := index[text]
			if !known {
				n = len(atoms)
				index[text] = n
				atoms = append(atoms, a)
			}
			parts[i] = append(parts[i], n)
		}
		if !s.spend(len(alternatives)) {
			return nil
		}
	}
	var out classSet
	for _, kind := range []func([]*value) []class{s.numbers, s.strings, s.scalars, s.lists, s.objects} {
		for _, c := range kind(atoms) {
			mask := newBits(len(preds))
			for i, list := range parts {
				if slices.ContainsFunc(list, c.mask.has) {
					mask.set(i)
				}
				s.spend(len(list)/8 + 1)
			}
			out.add(mask, c.example)
		}
		if s.failed || len(out.list) > maxClasses {
			s.failed = true
			return nil
		}
	}
	return out.list
}

// judge holds a scalar value against every atom.
func (s *splitter) judge(atoms []*value, example any) (bits, bool) {
	mask := newBits(len(atoms))
	for i, a := range atoms {
		s.match.work = 1 << 30
		if a.kind == valueAny || s.match.scalar(a, example) {
			mask.set(i)
		}
	}
	return mask, s.spend(len(atoms))
}

func (s *splitter) judgeAll(atoms []*value, examples []any) []class {
	var out classSet
	for _, example := range examples {
		mask, ok := s.judge(atoms, example)
		if !ok {
			return nil
		}
		out.add(mask, example)
	}
	return out.list
}

func (s *splitter) scalars(atoms []*value) []class {
	return s.judgeAll(atoms, []any{nil, true, false})
}

// numbers takes one integer of every interval between two bounds, and a number
// that is no integer.
func (s *splitter) numbers(atoms []*value) []class {
	starts := []bound{{true, 1 << 63}}
	for _, a := range atoms {
		if a.kind != valueRange {
			continue
		}
		if a.low != nil {
			starts = append(starts, *a.low)
		}
		if a.high != nil {
			if after, ok := a.high.next(); ok {
				starts = append(starts, after)
			}
		}
	}
	slices.SortFunc(starts, bound.compare)
	starts = slices.Compact(starts)
	var examples []any
	for i, low := range starts {
		high := bound{false, 1<<64 - 1}
		if i+1 < len(starts) {
			high = starts[i+1].previous()
		}
		examples = append(examples, json.Number(nearest(low, high).String()))
	}
	return s.judgeAll(atoms, append(examples, json.Number("0.5")))
}

// nearest returns the integer of an interval that is nearest to zero.
func nearest(low, high bound) bound {
	switch {
	case !low.negative:
		return low
	case high.negative:
		return high
	default:
		return bound{}
	}
}

func (b bound) compare(o bound) int {
	switch {
	case b.less(o):
		return -1
	case o.less(b):
		return 1
	default:
		return 0
	}
}

func (b bound) next() (bound, bool) {
	if b.negative {
		return bound{b.magnitude != 1, b.magnitude - 1}, true
	}
	return bound{false, b.magnitude + 1}, b.magnitude != 1<<64-1
}

// previous is for bounds above the least.
func (b bound) previous() bound {
	if b.negative || b.magnitude == 0 {
		return bound{true, b.magnitude + 1}
	}
	return bound{false, b.magnitude - 1}
}
