package learn

import "fmt"

// maxPeriod is how many hypercalls a repeated block may have.
const maxPeriod = 8

// item is a step, or a block of steps that is repeated: rounds of the same
// length whose steps agree in name and keys, not always in values.
type item struct {
	rounds [][]*step
	first  int // place of its first step among the session's
}

func (it *item) period() int { return len(it.rounds[0]) }

// shape tells which items can be repetitions of each other.
func (it *item) shape() string { return shapesOf(it.rounds[0]) }

func shapesOf(steps []*step) string {
	text := ""
	for _, s := range steps {
		text += s.shape + "\n"
	}
	return text
}

// reads tells that the whole block only asks.
func (it *item) reads() bool {
	for _, s := range it.rounds[0] {
		if !s.reads() {
			return false
		}
	}
	return true
}

// count is how often the block came, what the recording left out included.
func (it *item) count() int {
	n := 0
	for _, round := range it.rounds {
		n += max(1, round[0].elided)
	}
	return n
}

// fold finds repetitions: at each place the block whose rounds cover most.
func fold(steps []*step) []*item {
	var out []*item
	for at := 0; at < len(steps); {
		period, rounds := 1, 1
		for p := 1; p <= maxPeriod && at+2*p <= len(steps); p++ {
			n := repeated(steps[at:], p, func(a, b *step) bool { return a.shape == b.shape })
			if n <= fewChanges {
				// A few changes with other values are steps of their own.
				n = repeated(steps[at:], p, func(a, b *step) bool { return a.key == b.key || a.shape == b.shape && a.reads() })
			}
			if n > 1 && n*p > period*rounds {
				period, rounds = p, n
			}
		}
		it := &item{first: at}
		for n := range rounds {
			it.rounds = append(it.rounds, steps[at+n*period:at+(n+1)*period])
		}
		out = append(out, it)
		at += period * rounds
	}
	return out
}

// repeated counts how often the first p steps come in a row.
func repeated(steps []*step, p int, same func(a, b *step) bool) int {
	n := 1
	for at := p; at+p <= len(steps); at += p {
		for i := range p {
			if !same(steps[i], steps[at+i]) {
				return n
			}
		}
		n++
	}
	return n
}

// regroup makes an item of every block that is one round of what another
// session repeats.
func regroup(all [][]*item) {
	repeated := map[string]int{}
	for _, items := range all {
		for _, it := range items {
			if len(it.rounds) > 1 && it.period() > 1 {
				repeated[it.shape()] = it.period()
			}
		}
	}
	if len(repeated) == 0 {
		return
	}
	for i, items := range all {
		var out []*item
		for at := 0; at < len(items); at++ {
			block := items[at]
			if block.period() == 1 && len(block.rounds) == 1 {
				steps := []*step{}
				for n := at; n < len(items) && n < at+maxPeriod && items[n].period() == 1 && len(items[n].rounds) == 1; n++ {
					steps = append(steps, items[n].rounds[0][0])
					if repeated[shapesOf(steps)] == len(steps) && len(steps) > 1 {
						block = &item{rounds: [][]*step{steps}, first: block.first}
						at = n
						break
					}
				}
			}
			out = append(out, block)
		}
		all[i] = out
	}
}

func (l *learner) items(sessions []*session, steps func(*session) []*step) ([][]*item, error) {
	var all [][]*item
	for _, s := range sessions {
		items := fold(steps(s))
		if len(items) > maxItems {
			return nil, fmt.Errorf("%s: %d different steps, at most %d can be compared: cut the recording", s.name, len(items), maxItems)
		}
		all = append(all, items)
	}
	regroup(all)
	return all, nil
}
