package automata

import (
	"slices"
	"testing"

	"github.com/uvbond/uvbond/automaton"
)

// No complete session of one management command is one of another, and each
// that a policy may hold is included in a policy that holds it, and only then.
func TestCommandsAreApart(t *testing.T) {
	machines := map[string]*automaton.Machine{}
	for _, name := range NativeNames() {
		machines[name] = machine(t, name)
		if !machines[name].Deterministic() {
			t.Errorf("%s is not deterministic", name)
		}
		t.Logf("%s: %d states", name, machines[name].States())
	}
	for i, a := range NativeNames() {
		for _, b := range NativeNames()[:i] {
			both, err := automaton.Intersect(machines[a], machines[b])
			if err != nil {
				t.Fatal(err)
			}
			if calls, some, err := both.Example(); some || err != nil {
				t.Errorf("%s and %s both accept %v (%v)", a, b, calls, err)
			}
		}
	}
	for i := range PolicyNames() {
		allowed := PolicyNames()[:i+1]
		text, err := Policy(allowed...)
		if err != nil {
			t.Fatal(err)
		}
		f, err := automaton.Parse("policy", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		policy, err := f.CompilePolicy()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range NativeNames() {
			difference, err := automaton.Includes(policy, machines[name])
			if err != nil {
				t.Fatal(err)
			}
			if want := slices.Contains(allowed, name); want != (difference == nil) {
				t.Errorf("policy of %v, %s: %v", allowed, name, difference)
			}
		}
	}
}
