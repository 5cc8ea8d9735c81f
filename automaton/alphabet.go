package automaton

// alphabet is what a deterministic machine reads: for each hypercall's name the
// classes of its arguments, numbered through as letters.
type alphabet struct {
	names   []string
	preds   []*value  // by pattern: what the arguments must be
	nameOf  []int32   // by pattern
	own     [][]int32 // by name: its patterns, which the bits of its classes stand for
	place   []int32   // by pattern: its bit
	classes [][]class // by name
	first   []int32   // by name: the letter of its first class
	letters int32
	letter  []int32 // by letter: its name
}

// newAlphabet returns nil when the classes take more than work to find.
func newAlphabet(names []string, preds []*value, nameOf []int32, work int) *alphabet {
	a := &alphabet{names: names, preds: preds, nameOf: nameOf, own: make([][]int32, len(names)), place: make([]int32, len(preds))}
	for p, name := range nameOf {
		a.place[p] = int32(len(a.own[name]))
		a.own[name] = append(a.own[name], int32(p))
	}
	s := &splitter{work: work}
	for name := range names {
		own := make([]*value, len(a.own[name]))
		for i, p := range a.own[name] {
			own[i] = preds[p]
		}
		// Arguments are an object, whatever else the predicates would tell apart.
		classes := s.objects(own)
		if s.failed {
			return nil
		}
		a.first = append(a.first, a.letters)
		a.classes = append(a.classes, classes)
		a.letters += int32(len(classes))
		for range classes {
			a.letter = append(a.letter, int32(name))
		}
	}
	return a
}

// class returns the class of a letter.
func (a *alphabet) class(letter int32) *class {
	name := a.letter[letter]
	return &a.classes[name][letter-a.first[name]]
}
