package learn

import (
	"fmt"
	"slices"
	"sort"
)

// few is how many equal rounds in all sessions are still written out.
const (
	fewQuestions = 4
	fewChanges   = 8
)

// columnPlan is what becomes of a column.
type columnPlan struct {
	*column
	loop     bool
	min      int
	why      string
	progress bool          // asks how far a job is
	float    bool          // taken out, and interleaved with the others
	have     map[int]bool  // sessions that have it
	lack     map[int]bool  // sessions that do not, and went on long enough
	count    map[int]bool  // how often it came
	again    []*columnPlan // loops of the same hypercall right behind it
}

// plan decides what is a loop.
func (l *learner) plan(g *alignment) []*columnPlan {
	var plans []*columnPlan
	last := map[int]int{} // by session: its last column
	for i, c := range g.columns {
		for s := range c.items {
			last[s] = i
		}
	}
	started := map[string]bool{}
	for i, c := range g.columns {
		p := &columnPlan{column: c, have: map[int]bool{}, lack: map[int]bool{}, count: map[int]bool{}, min: 1}
		for _, s := range g.sessions {
			it := c.items[s.index]
			switch {
			case it != nil:
				p.have[s.index] = true
				p.count[it.count()] = true
			case !s.cut || i < last[s.index]:
				p.lack[s.index] = true
			}
		}
		p.loops(len(g.sessions), started)
		if n := len(plans); n > 0 && p.loop && plans[n-1].loop && plans[n-1].any.shape() == p.any.shape() {
			before := plans[n-1]
			before.again = append(before.again, p)
			before.min = max(before.min, p.min)
			continue
		}
		plans = append(plans, p)
		for _, st := range c.any.rounds[0] {
			started[st.name] = true
		}
	}
	return l.ask(plans)
}

// loops decides whether the column is a loop, and why.
func (p *columnPlan) loops(sessions int, started map[string]bool) {
	reads := p.any.reads()
	name := p.any.rounds[0][0].name
	limit := fewChanges
	if reads {
		limit = fewQuestions
	}
	most, elided := 0, false
	for _, it := range p.items {
		most = max(most, it.count())
		for _, round := range it.rounds {
			elided = elided || round[0].elided > 0
		}
	}
	least := p.least()
	if p.any.period() == 1 {
		for _, job := range progress[name] {
			if started[job] {
				p.progress = true
				p.loop, p.min, p.why = true, 0, fmt.Sprintf("came %s: asks how far `%s` is, which depends on how long that takes", times(least, most), job)
				return
			}
		}
	}
	switch {
	case elided:
		p.why = fmt.Sprintf("came %s, some of them left out of the recordings", times(least, most))
	case len(p.count) > 1:
		p.why = "came " + times(least, most)
	case most > limit:
		p.why = fmt.Sprintf("came %d times in a row", most)
	case sessions == 1 && reads && most > 2:
		p.why = fmt.Sprintf("came %d times in a row in the one session there is", most)
	default:
		return
	}
	p.loop, p.min = true, min(1, least)
}

func (p *columnPlan) least() int {
	if len(p.lack) > 0 {
		return 0
	}
	least := 0
	for n := range p.count {
		if least == 0 || n < least {
			least = n
		}
	}
	return least
}

func times(least, most int) string {
	if least == 1 && most == 1 {
		return "once in every session"
	}
	if least == most {
		return fmt.Sprintf("%d times in every session", most)
	}
	return fmt.Sprintf("%d to %d times", least, most)
}

// ask adds the question for a job's progress where no session shows it.
func (l *learner) ask(plans []*columnPlan) []*columnPlan {
	var out []*columnPlan
	for i, p := range plans {
		out = append(out, p)
		if p.loop || p.any.period() > 1 {
			continue
		}
		job := p.any.rounds[0][0].name
		question, ok := asked[job]
		for _, later := range plans[i+1:] {
			for _, st := range later.any.rounds[0] {
				ok = ok && st.name != question
			}
		}
		if !ok || len(p.lack) > 0 {
			continue
		}
		st := &step{name: question, key: question, shape: question + " "}
		out = append(out, &columnPlan{column: &column{items: map[int]*item{}, any: &item{rounds: [][]*step{{st}}}},
			loop: true, why: "seen in no session: a toolstack asks how far `" + job + "` is when that takes longer"})
	}
	return out
}

// floating finds what is interleaved with the rest, and where it may begin and
// has ended: the columns from and to. Questions that some sessions lack and that
// others have in several places float, and so do refreshes.
func (l *learner) floating(g *alignment, plans []*columnPlan) (from, to int, blocks [][]*step) {
	from, to = len(plans), 0
	places, example := map[string]int{}, map[string]*step{}
	for _, p := range plans {
		for _, st := range p.floats() {
			places[st.key]++
			example[st.key] = st
		}
	}
	var keys []string
	for key, n := range places {
		if n > 1 {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	for _, key := range keys {
		blocks = append(blocks, []*step{example[key]})
		from, to = 0, len(plans)
	}
	for _, p := range plans {
		steps := p.floats()
		p.float = len(steps) > 0 && !slices.ContainsFunc(steps, func(st *step) bool { return places[st.key] < 2 })
	}
	begins := map[int]bool{}
	for _, s := range g.sessions {
		if !s.fresh {
			continue
		}
		begin := len(plans)
		for i, p := range plans {
			if it := p.items[s.index]; it != nil && it.first+len(it.rounds)*it.period() > s.first {
				begin = i
				break
			}
		}
		begins[begin] = true
		from, to = min(from, begin), len(plans)
	}
	if len(begins) > 0 {
		blocks = append(blocks, l.refresh)
	}
	if len(begins) > 1 { // no step brings them about
		from = 0
	}
	return min(from, to), to, blocks
}

// floats returns the questions of a column that may float: those that some
// sessions lack.
func (p *columnPlan) floats() []*step {
	if len(p.lack) == 0 || p.progress || !p.any.reads() {
		return nil
	}
	return p.any.rounds[0]
}
