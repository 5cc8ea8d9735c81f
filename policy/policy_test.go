package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
)

const maintain = `
# What the night shift may do.
rule pause, resume =
    limit 2 per 1day limit 1 per 10min   # not all at once
    from 2026-12-01T00:00:00Z until 2027-01-01T00:00:00Z
    window mon-fri 08:00-18:00 window sat,sun 22:00-02:00
    pause 10min ;
rule reset = limit 1 per 1h ;
automaton status = query-status+ ;
automaton pause = query-status* stop query-status* ;
automaton resume = query-status* cont query-status* ;
automaton reset = query-status* system_reset query-status* ;
automaton off = quit ;
`

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func at(t *testing.T, text string) int64 {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when.Unix()
}

func TestParse(t *testing.T) {
	p := parse(t, maintain)
	r := p.Rule("resume")
	if r == nil || r != p.Rule("pause") || p.Rule("status") != nil || p.Rule("reset").Limits[0] != (Limit{1, time.Hour}) {
		t.Fatalf("rules %+v", r)
	}
	const want = "rule pause, resume = limit 2 per 1day limit 1 per 10min from 2026-12-01T00:00:00Z until 2027-01-01T00:00:00Z window mon-fri 08:00-18:00 window sat-sun 22:00-02:00 pause 10min ;"
	if got := r.String(); got != want {
		t.Errorf("written as %s", got)
	}
	again := parse(t, Compose([]*Rule{r}, "automaton pause = stop ; automaton resume = cont ;"))
	if got := again.Rule("pause").String(); got != want {
		t.Errorf("read again as %s", got)
	}
	describe := strings.Join(p.Describe(), "; ")
	if describe != "status; pause, resume (at most 2 in 1day, at most 1 in 10min, from 2026-12-01T00:00:00Z, until 2027-01-01T00:00:00Z, mon-fri 08:00-18:00 UTC, sat-sun 22:00-02:00 UTC, paused for 10min at most); reset (at most 1 in 1h); off" {
		t.Errorf("described as %s", describe)
	}
	if got := parse(t, "").Describe(); len(got) != 0 {
		t.Errorf("nothing is described as %v", got)
	}
	// Places in the automata stay what they are.
	if _, err := Parse("rule a = limit 1 per 1s ;\nautomaton a = ( ;"); err == nil || !strings.Contains(err.Error(), "policy:2:") {
		t.Errorf("place of an error: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	const ok = " automaton a = stop ; automaton b = cont ;"
	for text, want := range map[string]string{
		"rule a = limit 1 per 1h":                                         `found "automaton"`,
		"rule = limit 1 per 1h ;":                                         "name of an automaton",
		"rule a, = limit 1 per 1h ;":                                      "name of an automaton",
		"rule a b = limit 1 per 1h ;":                                     "expected `,` or `=`",
		"rule a, a = limit 1 per 1h ;":                                    "named twice",
		"rule a = ;":                                                      "says nothing",
		"rule a = limt 1 per 1h ;":                                        `found "limt"`,
		"rule a = limit 0 per 1h ;":                                       "want 1 to 1000",
		"rule a = limit 01 per 1h ;":                                      "want 1 to 1000",
		"rule a = limit 1001 per 1h ;":                                    "want 1 to 1000",
		"rule a = limit 1 in 1h ;":                                        "expected `per`",
		"rule a = limit 1 per 1hour ;":                                    "is not a time like",
		"rule a = limit 1 per 0s ;":                                       "is not a time like",
		"rule a = limit 1 per 367day ;":                                   "at most 366day",
		"rule a = limit 1 per ;":                                          "nothing is not a time",
		"rule a = pause 31day ;":                                          "at most 30day",
		"rule a = pause 1h pause 2h ;":                                    "twice",
		"rule a = from 2027-01-01 ;":                                      "is not a time like 2027",
		"rule a = until 2027-01-01T00:00:00+01:00 ;":                      "is not a time like 2027",
		"rule a = until 2027-13-01T00:00:00Z ;":                           "is not a time like 2027",
		"rule a = from 2027-01-02T00:00:00Z until 2027-01-01T00:00:00Z ;": "not after",
		"rule a = window 8:00-18:00 ;":                                    "are not hours",
		"rule a = window 08:00-25:00 ;":                                   "are not hours",
		"rule a = window 08:00-24:30 ;":                                   "are not hours",
		"rule a = window 08:00-08:00 ;":                                   "are not hours",
		"rule a = window 24:00-08:00 ;":                                   "are not hours",
		"rule a = window mon-fry 08:00-18:00 ;":                           "are not days",
		"rule a = window mon ;":                                           "nothing are not hours",
		"rule c = limit 1 per 1h ;":                                       `about "c", and there is no such automaton`,
		"rule a = limit 1 per 1h ; rule b, a = limit 1 per 1h ;":          "two rules",
		"rule a = " + strings.Repeat("limit 1 per 1h ", 5) + ";":          "more than 4 limits",
		"rule a = " + strings.Repeat("window 01:00-02:00 ", 17) + ";":     "more than 16 windows",
		"rule a = " + strings.Repeat("window ", 600) + ";":                "more than 512 words",
		"automaton c = quit ; rule c = limit 1 per 1h ;":                  "rule",
	} {
		if _, err := Parse(text + ok); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	var many strings.Builder
	for i := range MaxAutomata + 1 {
		fmt.Fprintf(&many, "automaton a%d = stop ;\n", i)
	}
	if _, err := Parse(many.String()); err == nil {
		t.Error("33 automata are accepted")
	}
}

func TestOpen(t *testing.T) {
	r := parse(t, maintain).Rule("pause")
	for when, want := range map[string]string{
		"2026-11-30T23:59:59Z": "not allowed before 2026-12-01",
		"2026-12-01T07:59:59Z": "mon-fri 08:00-18:00 and sat-sun 22:00-02:00 (UTC)",
		"2026-12-01T08:00:00Z": "", // a Tuesday
		"2026-12-01T17:59:59Z": "",
		"2026-12-01T18:00:00Z": "not allowed now",
		"2026-12-05T12:00:00Z": "not allowed now", // Saturday
		"2026-12-05T22:00:00Z": "",
		"2026-12-06T01:59:59Z": "",
		"2026-12-06T02:00:00Z": "not allowed now",
		"2026-12-07T01:30:00Z": "",                // Sunday's window reaches into Monday
		"2026-12-08T01:30:00Z": "not allowed now", // Monday has none
		"2026-12-31T12:00:00Z": "",
		"2027-01-01T00:00:00Z": "only until 2027-01-01",
	} {
		err := r.Open(at(t, when))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", when, err, want)
		}
	}
}

func TestAllows(t *testing.T) {
	r := &Rule{Limits: []Limit{{3, Day}, {1, 10 * time.Minute}}}
	var used []int64
	const t0 = 1_800_000_000
	for _, step := range []struct {
		after int64 // seconds since t0
		ok    bool
		again int64
	}{
		{0, true, 0}, {0, false, 600}, {599, false, 600}, {600, true, 0}, {1200, true, 0},
		{5000, false, 86400}, {86399, false, 86400}, {86400, true, 0}, {86401, false, 87000}, {87000, true, 0}, {87600, true, 0}, {90000, false, 86400 + 86400},
	} {
		err := r.Allows("pause", used, t0+step.after)
		var full *UsedUpError
		if (err == nil) != step.ok || errors.As(err, &full) && full.Again != t0+step.again {
			t.Errorf("after %d s: %v, want %v, again at %d", step.after, err, step.ok, t0+step.again)
		}
		if err == nil {
			used = r.Forget(append(used, t0+step.after), t0+step.after)
		}
	}
	if len(used) != 3 {
		t.Errorf("%d uses are remembered", len(used))
	}
}

// books counts as the hypervisor does.
type books struct {
	now  int64
	used map[string][]int64
}

func (b *books) count(name string, r *Rule) error {
	if err := r.Allows(name, b.used[name], b.now); err != nil {
		return err
	}
	b.used[name] = append(b.used[name], b.now)
	return nil
}

func changes(command string) bool { return command != "query-status" }

func TestRun(t *testing.T) {
	tuesday := at(t, "2026-12-01T12:00:00Z")
	for name, tc := range map[string]struct {
		text  string
		calls string // hypercalls; a ! before one that is refused, a number passes as many seconds
		used  string
	}{
		"each use counts once":                  {maintain, "query-status stop query-status query-status", "pause 1"},
		"limit in a session":                    {maintain, "stop !stop", "pause 1"},
		"again after the period":                {maintain, "stop 600 stop 600 !stop", "pause 2"},
		"automata count apart":                  {maintain, "stop cont system_reset", "pause 1 reset 1 resume 1"},
		"looking is not counted":                {maintain, "query-status query-status query-status", ""},
		"without a rule":                        {maintain, "quit quit quit", ""},
		"foreign":                               {maintain, "!system_powerdown", ""},
		"limit of what never changes":           {"rule s = limit 2 per 1h ; automaton s = query-status ;", "query-status query-status !query-status", "s 2"},
		"cheapest way is taken":                 {"rule a = limit 1 per 1h ; automaton a = stop ; automaton b = stop ;", "stop stop stop", ""},
		"second way where the first is used up": {"rule a, b = limit 1 per 1h ; automaton a = stop ; automaton b = stop cont? ;", "stop stop !stop", "a 1 b 1"},
		"one use goes on":                       {"rule a = limit 1 per 1h ; automaton a = stop (query-status cont)? ;", "stop query-status cont !stop", "a 1"},
		"a way that is not paid for ends":       {"rule a, b = limit 1 per 1h ; automaton a = stop ; automaton b = stop cont ;", "stop !cont", "a 1"},
		"not completed":                         {"automaton a = stop cont ;", "stop !stop", ""},
		"too late":                              {"rule a = until 2026-12-01T12:00:10Z ; automaton a = stop query-status* ;", "stop 10 query-status !stop", ""},
		"too late to go on":                     {"rule a = until 2026-12-01T12:00:10Z ; automaton a = stop cont ;", "stop 10 !cont", ""},
		"empty":                                 {"", "!query-status", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, tc.text)
			r := p.Start(changes)
			b := &books{now: tuesday, used: map[string][]int64{}}
			for _, call := range strings.Fields(tc.calls) {
				var seconds int64
				if n, _ := fmt.Sscanf(call, "%d", &seconds); n == 1 {
					b.now += seconds
					continue
				}
				command, refused := strings.CutPrefix(call, "!")
				if g, err := r.Step(command, nil, b.now, b.count); (err != nil) != refused {
					t.Fatalf("%s: %v, %+v", call, err, g)
				}
			}
			var used []string
			for name, times := range b.used {
				used = append(used, fmt.Sprintf("%s %d", name, len(times)))
			}
			slices.Sort(used)
			if got := strings.Join(used, " "); got != tc.used {
				t.Errorf("counted %q, want %q", got, tc.used)
			}
		})
	}
}

// TestSameAsWhole: without rules a policy accepts what its machine accepts, and
// nothing else.
func TestSameAsWhole(t *testing.T) {
	text, err := automata.Policy("status", "pause", "resume", "reset", "shutdown")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{text, "automaton a = stop cont? ; automaton b = cont stop+ ; automaton c = query-status* stop cont stop ;",
		"automaton a = (stop | cont query-status){1,3} ; automaton b = stop cont cont ;"} {
		p := parse(t, text)
		commands := []string{"query-status", "stop", "cont", "system_reset"}
		for n := range 1 << 16 {
			r, whole := p.Start(changes), p.Whole().Start()
			for i := n; ; i /= 4 {
				call := commands[i%4]
				_, err := r.Step(call, nil, 0, nil)
				want := whole.Step(call, nil)
				if (err == nil) != (want == nil) {
					t.Fatalf("%s\nsession %d at %s: %v, want %v", text, n, call, err, want)
				}
				if err != nil || i < 4 {
					break
				}
			}
		}
	}
}

func TestIncluding(t *testing.T) {
	p := parse(t, maintain)
	compile := func(text string) *automaton.Machine {
		f, err := automaton.Parse("t", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile(f.Names()[0])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for text, want := range map[string]string{
		"automaton anything = stop ;":                                           "", // may not end there? it may
		"automaton look = query-status query-status ;":                          "status",
		"automaton pause = stop cont ;":                                         "!",
		"automaton status = system_reset ;":                                     "reset",
		"automaton pause = query-status* stop query-status* system_powerdown ;": "!",
		"automaton pause = stop{ ... } ;":                                       "!",
	} {
		name, err := p.Including(compile(text))
		switch {
		case want == "!":
			if err == nil || !strings.Contains(err.Error(), "refuses") {
				t.Errorf("%s: included in %s, %v", text, name, err)
			}
		case want == "":
			if err != nil || name != "pause" {
				t.Errorf("%s: %s, %v", text, name, err)
			}
		case err != nil || name != want:
			t.Errorf("%s: %s, %v", text, name, err)
		}
	}
	if _, err := parse(t, "").Including(compile("automaton a = stop ;")); err == nil {
		t.Error("nothing includes something")
	}
}

// TestNastyPolicies: texts that are made to be slow are refused by their counts,
// and the largest that is accepted is compiled.
func TestNastyPolicies(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"large counts": {"automaton a = (stop|cont){4000} ;", false},
		"too many":     {manyAutomata(32, "(stop|cont)* stop (stop|cont){100}"), false},
		"just enough":  {manyAutomata(32, "(stop|cont)* stop (stop|cont){18}"), true},
		"rules":        {strings.Repeat("rule a = limit 1 per 1s ;\n", 2000), false},
		"open rule":    {"rule " + strings.Repeat("a , ", 20000), false},
		"comments":     {strings.Repeat("# x\n", 20000) + "rule a = limit 1 per 1s ;", false},
	} {
		if _, err := Parse(tc.text); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyAutomata(n int, body string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "automaton a%d = %s ;\n", i, body)
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	f.Add(maintain)
	f.Add("rule a = window mon,wed-fri 00:00-24:00 pause 1s ; automaton a = stop ;")
	f.Add("rule a = limit 1 per 1h")
	f.Add("rule#x\na=until 2027-01-01T00:00:00Z;automaton a = stop ;")
	f.Add("rules = 1")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		p, err := Parse(text)
		if err != nil {
			return
		}
		p.Describe()
		for _, name := range p.Names() {
			r := p.Rule(name)
			if r == nil {
				continue
			}
			_ = r.Open(1_800_000_000)
			again, rest, err := rulesOf(r.String())
			if err != nil || len(again) != 1 || strings.TrimSpace(rest) != "" || again[0].String() != r.String() {
				t.Fatalf("%s is read again as %v, %v", r, again, err)
			}
		}
	})
}
