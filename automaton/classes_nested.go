package automaton

import (
	"maps"
	"slices"
)

// partial is a list or object under construction: mask says for which
// predicates it still may do.
type partial struct {
	mask  bits
	prev  *partial
	key   string // of an object's member
	value any
}

// partials keeps one partial for each mask.
type partials struct {
	known map[string]struct{}
	list  []*partial
}

func (p *partials) add(s *splitter, mask bits, next func() *partial) {
	key := mask.key()
	if _, old := p.known[key]; old || s.failed {
		return
	}
	if p.known == nil {
		p.known = map[string]struct{}{}
	}
	p.known[key] = struct{}{}
	n := next()
	n.mask = mask
	p.list = append(p.list, n)
	s.failed = s.failed || len(p.list) > maxClasses
}

// holding returns the atoms that hold for every object (list), and those that
// say more about it.
func holding(atoms []*value, kind valueKind, typ string) (always bits, shaped []int) {
	always = newBits(len(atoms))
	for i, a := range atoms {
		switch {
		case a.kind == valueAny || a.kind == valueType && a.text == typ:
			always.set(i)
		case a.kind == kind:
			shaped = append(shaped, i)
		}
	}
	return always, shaped
}

func with(base bits, indexes []int) bits {
	out := slices.Clone(base)
	for _, i := range indexes {
		out.set(i)
	}
	return out
}

// objects goes through all keys that any predicate names, and one that none
// does. What a key decides does not depend on the others, so the masks of the
// keys' classes meet.
func (s *splitter) objects(atoms []*value) []class {
	always, shaped := holding(atoms, valueObject, "object")
	if len(shaped) == 0 {
		return []class{{always, map[string]any{}}}
	}
	s.spend(splitCost)
	users := map[string][]int{} // by key: atoms that name it
	open := slices.Clone(always)
	for _, i := range shaped {
		for j := range atoms[i].members {
			users[atoms[i].members[j].key] = append(users[atoms[i].members[j].key], i)
		}
		if atoms[i].open {
			open.set(i)
		}
	}
	now := []*partial{{mask: with(always, shaped)}}
	for _, key := range slices.Sorted(maps.Keys(users)) {
		absent, present := s.member(atoms, key, users[key], with(always, shaped), open)
		now = s.extend(now, key, absent, present)
		if s.failed {
			return nil
		}
	}
	fresh := examplesFresh
	for users[fresh] != nil {
		fresh += "-" + examplesFresh
	}
	now = s.extend(now, fresh, with(always, shaped), []class{{open, true}})
	var out classSet
	for _, p := range now {
		object := map[string]any{}
		for q := p; q.prev != nil; q = q.prev {
			object[q.key] = q.value
		}
		out.add(p.mask, object)
	}
	return out.list
}

// member tells what a key's absence and the classes of its values allow.
func (s *splitter) member(atoms []*value, key string, users []int, all, open bits) (absent bits, present []class) {
	absent = slices.Clone(all)
	others := slices.Clone(open) // that do not name the key, but take it
	preds := make([]*value, len(users))
	for n, i := range users {
		at, _ := slices.BinarySearchFunc(atoms[i].members, key, func(m member, key string) int {
			switch {
			case m.key < key:
				return -1
			case m.key > key:
				return 1
			default:
				return 0
			}
		})
		m := &atoms[i].members[at]
		preds[n] = m.value
		others[i/64] &^= 1 << (i % 64)
		if !m.optional {
			absent[i/64] &^= 1 << (i % 64)
		}
	}
	var out classSet
	for _, c := range s.split(preds) {
		mask := slices.Clone(others)
		for n, i := range users {
			if c.mask.has(n) {
				mask.set(i)
			}
		}
		s.spend(len(users))
		out.add(mask, c.example)
	}
	return absent, out.list
}

// extend gives every partial object the choices of one more key.
func (s *splitter) extend(now []*partial, key string, absent bits, present []class) []*partial {
	var next partials
	for _, p := range now {
		next.add(s, p.mask.and(absent), func() *partial { c := *p; return &c })
		for _, c := range present {
			if !s.spend(len(absent)) {
				return nil
			}
			next.add(s, p.mask.and(c.mask), func() *partial { return &partial{prev: p, key: key, value: c.example} })
		}
	}
	return next.list
}

// lists grows lists element by element. Behind the longest list of single
// elements all places are alike, and once no new mask comes none will.
func (s *splitter) lists(atoms []*value) []class {
	always, shaped := holding(atoms, valueList, "list")
	if len(shaped) == 0 {
		return []class{{always, []any{}}}
	}
	longest := 0
	for _, i := range shaped {
		longest = max(longest, len(atoms[i].items)+atoms[i].tailMin)
	}
	var out classSet
	now := []*partial{{mask: with(always, shaped)}}
	var elements []class
	for length := 0; s.spend(splitCost); length++ {
		for _, p := range now {
			mask := slices.Clone(p.mask)
			for _, i := range shaped {
				if a := atoms[i]; length < len(a.items)+a.tailMin || a.tail == nil && length > len(a.items) {
					mask[i/64] &^= 1 << (i % 64)
				}
			}
			s.spend(len(shaped) + 1)
			out.add(mask, p)
		}
		if length <= longest {
			elements = s.elements(atoms, always, shaped, length)
		}
		var next partials
		for _, p := range now {
			for _, c := range elements {
				s.spend(len(always) + 1)
				next.add(s, p.mask.and(c.mask), func() *partial { return &partial{prev: p, value: c.example} })
			}
		}
		if length > longest+1 && len(next.list) == len(now) {
			break
		}
		now = next.list
	}
	for i := range out.list {
		list := []any{}
		for p := out.list[i].example.(*partial); p.prev != nil; p = p.prev {
			list = append(list, p.value)
		}
		slices.Reverse(list)
		out.list[i].example = list
	}
	return out.list
}

// elements returns the classes of the element at one place of a list.
func (s *splitter) elements(atoms []*value, always bits, shaped []int, at int) []class {
	var preds []*value
	var users []int
	for _, i := range shaped {
		a := atoms[i]
		if at < len(a.items) {
			preds, users = append(preds, a.items[at]), append(users, i)
		} else if a.tail != nil {
			preds, users = append(preds, a.tail), append(users, i)
		}
	}
	var out classSet
	for _, c := range s.split(preds) {
		mask := slices.Clone(always)
		for n, i := range users {
			if c.mask.has(n) {
				mask.set(i)
			}
		}
		s.spend(len(users))
		out.add(mask, c.example)
	}
	return out.list
}
