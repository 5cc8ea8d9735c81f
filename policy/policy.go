// Package policy is what the owner of a VM allows others: automata, and rules
// that say when, how often and for how long they may be used. Operators have one
// such text without a ticket; a delegation has one for whom it names.
//
// A policy is a text that a person can read:
//
//	rule pause, resume =
//	    limit 3 per 1day
//	    until 2027-01-31T18:00:00Z
//	    window mon-fri 08:00-18:00
//	    pause 10min ;
//
//	automaton pause = query-status* stop query-status* ;
//	...
//
// Rules stand before the automata. An automaton without a rule may be used at any
// time and as often as wanted. The package is pure: callers bring the time and
// keep the counts.
package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/automaton"
)

// Policy is a parsed and compiled text. It does not change.
type Policy struct {
	text  string
	file  *automaton.File
	whole *automaton.Machine
	items []item
}

type item struct {
	name    string
	machine *automaton.Machine
	rule    *Rule // nil: none
}

// Parse reads a policy. Empty text allows nothing.
func Parse(text string) (*Policy, error) {
	rules, rest, err := rulesOf(text)
	if err != nil {
		return nil, err
	}
	p := &Policy{text: text}
	if p.file, err = automaton.Parse("policy", []byte(rest)); err != nil {
		return nil, err
	}
	names := p.file.Names()
	if len(names) > MaxAutomata {
		return nil, fmt.Errorf("policy: %d automata, at most %d are allowed", len(names), MaxAutomata)
	}
	// First all together: their sizes are bounded as a whole.
	if p.whole, err = p.file.CompilePolicy(); err != nil {
		return nil, err
	}
	for _, name := range names {
		m, err := p.file.Compile(name)
		if err != nil {
			return nil, err
		}
		p.items = append(p.items, item{name: name, machine: m})
	}
	for _, r := range rules {
		for _, name := range r.Names {
			n := slices.Index(names, name)
			switch {
			case n < 0:
				return nil, fmt.Errorf("policy: a rule is about %s, and there is no such automaton", found(name))
			case p.items[n].rule != nil:
				return nil, fmt.Errorf("policy: two rules are about %s", found(name))
			}
			p.items[n].rule = r
		}
	}
	return p, nil
}

// Text is what was parsed.
func (p *Policy) Text() string { return p.text }

// File is the text's automata.
func (p *Policy) File() *automaton.File { return p.file }

// Whole is the machine that follows any of the automata, one after the other,
// whatever the rules say.
func (p *Policy) Whole() *automaton.Machine { return p.whole }

// Names returns the automata's names in the order of the text.
func (p *Policy) Names() []string { return p.file.Names() }

// Rule returns the rule about an automaton, or nil.
func (p *Policy) Rule(name string) *Rule {
	for _, it := range p.items {
		if it.name == name {
			return it.rule
		}
	}
	return nil
}

// Deadline returns how long a session under an automaton may last, or 0 when the
// text does not say.
func (p *Policy) Deadline(name string) time.Duration {
	for _, it := range p.items {
		if it.name == name {
			return it.machine.Deadline()
		}
	}
	return 0
}

// Including finds the first automaton that lets through all that m does, and
// ends wherever m does: names do not count. The error says why there is none,
// with a shortest counter-example where one automaton comes into question.
func (p *Policy) Including(m *automaton.Machine) (name string, err error) {
	var why error
	for _, it := range p.items {
		d, err := automaton.Includes(it.machine, m)
		switch {
		case err == nil && d == nil:
			return it.name, nil
		case why != nil && it.name != m.Name():
		case err != nil:
			why = err
		default:
			why = fmt.Errorf("%s", strings.ReplaceAll(d.String(), "\n    ", " "))
		}
	}
	if why == nil {
		why = fmt.Errorf("nothing is allowed")
	}
	return "", why
}

// Describe names what is allowed, with the rules in words, one entry for all
// automata of a rule and one for each without.
func (p *Policy) Describe() []string {
	out := []string{}
	for i, it := range p.items {
		if it.rule == nil {
			out = append(out, it.name)
			continue
		}
		if slices.ContainsFunc(p.items[:i], func(o item) bool { return o.rule == it.rule }) {
			continue
		}
		out = append(out, strings.Join(it.rule.Names, ", ")+" ("+it.rule.Describe()+")")
	}
	return out
}

// Compose writes a policy of rules and automata.
func Compose(rules []*Rule, automata string) string {
	var b strings.Builder
	for _, r := range rules {
		b.WriteString(r.String() + "\n")
	}
	if b.Len() > 0 && automata != "" {
		b.WriteString("\n")
	}
	return b.String() + automata
}
