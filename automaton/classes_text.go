package automaton

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// strings returns the classes of all strings. Without patterns these are the
// texts named and one other. With patterns, all patterns and texts are
// followed at once through the strings, shortest first.
func (s *splitter) strings(atoms []*value) []class {
	var texts []any
	taken := map[string]bool{}
	patterns := false
	for _, a := range atoms {
		switch a.kind {
		case valueText:
			texts = append(texts, a.text)
			taken[a.text] = true
		case valueGlob, valueRegexp:
			patterns = true
		}
	}
	fresh := examplesFresh
	for taken[fresh] {
		fresh += "-" + examplesFresh
	}
	if !patterns {
		return s.literals(atoms, append(texts, fresh))
	}
	long := strings.Repeat("a", MaxSubject+1) // no pattern takes a longer one
	for taken[long] {
		long += "a"
	}
	var out classSet
	for _, c := range append(s.patterns(atoms), s.judgeAll(atoms, append(texts, fresh, long))...) {
		out.add(c.mask, c.example)
	}
	return out.list
}

// literals is judgeAll where every text is one atom's own.
func (s *splitter) literals(atoms []*value, examples []any) []class {
	base := newBits(len(atoms))
	index := map[string]int{}
	for i, a := range atoms {
		if a.kind == valueAny || a.kind == valueType && a.text == "string" {
			base.set(i)
		} else if a.kind == valueText {
			index[a.text] = i
		}
	}
	var out classSet
	for _, example := range examples {
		mask := base
		if i, ok := index[example.(string)]; ok {
			mask = with(base, []int{i})
		}
		s.spend(len(mask) + 1)
		out.add(mask, example)
	}
	return out.list
}

// textMachine follows several expressions at once. Its states are sets of
// program places, each with what the last character was: that decides ^ and \b.
type textMachine struct {
	insts []syntax.Inst // all programs, one behind the other
	owner []int         // by place: the atom
	runes []rune        // one of each class of characters that no expression tells apart
	stamp []int
	now   int
}

type textState struct {
	places []uint32
	last   rune // -1 at the beginning
	text   string
}

// patterns finds the shortest string of every class among those of at most
// MaxSubject bytes.
func (s *splitter) patterns(atoms []*value) []class {
	m, start := s.textMachine(atoms)
	if m == nil {
		s.failed = true
		return nil
	}
	var out classSet
	todo := []textState{{start, -1, ""}}
	known := map[string]struct{}{}
	for i := 0; i < len(todo) && !s.failed; i++ {
		at := todo[i]
		mask, ok := s.judge(atoms, at.text)
		if !ok || !m.agrees(atoms, at, mask) {
			s.failed = true
			return nil
		}
		out.add(mask, at.text)
		for _, r := range m.runes {
			if !s.spend(8*len(at.places) + 48) {
				return nil
			}
			next := textState{m.step(at, r), r, at.text + string(r)}
			slices.Sort(next.places)
			key := placesKey(next.places, r)
			if _, old := known[key]; old {
				continue
			}
			known[key] = struct{}{}
			if len(next.text) > MaxSubject {
				s.failed = true // how long the shortest is stays open
				return nil
			}
			todo = append(todo, next)
		}
	}
	return out.list
}

// textMachine compiles texts, globs and expressions of the atoms.
func (s *splitter) textMachine(atoms []*value) (*textMachine, []uint32) {
	m := &textMachine{}
	var start []uint32
	cuts := []rune{0, '\n', '\n' + 1, 0xd800, 0xe000}
	for i, a := range atoms {
		expression := ""
		switch {
		case a.kind == valueText && len(a.text) <= MaxSubject:
			expression = quoteRegexp(a.text)
		case a.kind == valueGlob:
			expression = globRegexp(a.text)
		case a.kind == valueRegexp:
			expression = a.text
		default:
			continue
		}
		parsed, err := syntax.Parse(`\A(?:`+expression+`)\z`, syntax.Perl)
		if err != nil {
			return nil, nil
		}
		prog, err := syntax.Compile(parsed.Simplify())
		if err != nil || !s.spend(16*len(prog.Inst)) {
			return nil, nil
		}
		offset := uint32(len(m.insts))
		start = append(start, offset+uint32(prog.Start))
		for _, inst := range prog.Inst {
			cuts = runeCuts(cuts, &inst)
			inst.Out += offset
			if inst.Op == syntax.InstAlt || inst.Op == syntax.InstAltMatch {
				inst.Arg += offset
			}
			m.insts = append(m.insts, inst)
			m.owner = append(m.owner, i)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i, low := range cuts {
		high := rune(unicode.MaxRune)
		if i+1 < len(cuts) {
			high = cuts[i+1] - 1
		}
		if low <= high && low != 0xd800 {
			m.runes = append(m.runes, readable(low, high))
		}
	}
	m.stamp = make([]int, len(m.insts))
	return m, start
}

// runeCuts adds the places between characters where inst begins to tell apart.
func runeCuts(cuts []rune, inst *syntax.Inst) []rune {
	switch inst.Op {
	case syntax.InstRune, syntax.InstRune1:
		if len(inst.Rune) == 1 {
			cuts = append(cuts, inst.Rune[0], inst.Rune[0]+1)
			if syntax.Flags(inst.Arg)&syntax.FoldCase != 0 { // [Aa] becomes one
				for r := unicode.SimpleFold(inst.Rune[0]); r != inst.Rune[0]; r = unicode.SimpleFold(r) {
					cuts = append(cuts, r, r+1)
				}
			}
			return cuts
		}
		for i := 0; i+1 < len(inst.Rune); i += 2 {
			cuts = append(cuts, inst.Rune[i])
			if inst.Rune[i+1] < unicode.MaxRune {
				cuts = append(cuts, inst.Rune[i+1]+1)
			}
		}
	case syntax.InstEmptyWidth:
		return append(cuts, '0', '9'+1, 'A', 'Z'+1, '_', '_'+1, 'a', 'z'+1)
	}
	return cuts
}

// readable picks a character that people can read where there is one.
func readable(low, high rune) rune {
	for _, wish := range [][2]rune{{'a', 'z'}, {'0', '9'}, {'A', 'Z'}, {'!', '~'}, {0, utf8.RuneSelf - 1}} {
		if from := max(low, wish[0]); from <= min(high, wish[1]) {
			return from
		}
	}
	return low
}

// closure calls visit for the places reached from places without a character.
func (m *textMachine) closure(places []uint32, flags syntax.EmptyOp, visit func(uint32)) {
	m.now++
	todo := slices.Clone(places)
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if m.stamp[at] == m.now {
			continue
		}
		m.stamp[at] = m.now
		inst := &m.insts[at]
		switch inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, inst.Out, inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, inst.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.Arg)&^flags == 0 {
				todo = append(todo, inst.Out)
			}
		default:
			visit(at)
		}
	}
}

func (m *textMachine) step(at textState, r rune) []uint32 {
	var next []uint32
	m.closure(at.places, syntax.EmptyOpContext(at.last, r), func(place uint32) {
		switch inst := &m.insts[place]; inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			if inst.MatchRune(r) {
				next = append(next, inst.Out)
			}
		}
	})
	slices.Sort(next)
	return slices.Compact(next)
}

// agrees checks this machine against the matcher that steps use.
func (m *textMachine) agrees(atoms []*value, at textState, mask bits) bool {
	matched := newBits(len(atoms))
	m.closure(at.places, syntax.EmptyOpContext(at.last, -1), func(place uint32) {
		if m.insts[place].Op == syntax.InstMatch {
			matched.set(m.owner[place])
		}
	})
	for i, a := range atoms {
		switch a.kind {
		case valueText, valueGlob, valueRegexp:
			if matched.has(i) != mask.has(i) {
				return false
			}
		}
	}
	return true
}

// placesKey holds what matters of a state: its places, and of the last
// character whether it was a line's end or belongs to a word.
func placesKey(places []uint32, last rune) string {
	key := make([]byte, 0, 4*len(places)+1)
	switch {
	case last == '\n':
		key = append(key, 'n')
	case syntax.IsWordChar(last):
		key = append(key, 'w')
	default:
		key = append(key, 'o')
	}
	for _, p := range places {
		key = append(key, byte(p), byte(p>>8), byte(p>>16), byte(p>>24))
	}
	return string(key)
}

func quoteRegexp(s string) string {
	var b strings.Builder
	for _, r := range s {
		quoteRune(&b, r)
	}
	return b.String()
}

func quoteRune(b *strings.Builder, r rune) {
	if r < utf8.RuneSelf && strings.ContainsRune(`\.+*?()|[]{}^$`, r) {
		b.WriteByte('\\')
	}
	b.WriteRune(r)
}

func globRegexp(glob string) string {
	var b strings.Builder
	escaped := false
	for i, r := range glob {
		switch {
		case escaped:
			escaped = false
			quoteRune(&b, r)
		case r == '\\' && i+1 < len(glob):
			escaped = true
		case r == '*':
			b.WriteString("(?s:.*)")
		case r == '?':
			b.WriteString("(?s:.)")
		default:
			quoteRune(&b, r)
		}
	}
	return b.String()
}
