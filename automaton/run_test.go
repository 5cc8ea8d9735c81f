package automaton

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// step decodes "name {json}" and takes it.
func step(t testing.TB, r *Run, call string) error {
	t.Helper()
	name, text, _ := strings.Cut(call, " ")
	return r.Step(name, arguments(t, text))
}

func arguments(t testing.TB, text string) (args map[string]any) {
	t.Helper()
	if text == "" {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&args); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return args
}

func steps(t testing.TB, r *Run, calls ...string) {
	t.Helper()
	for _, call := range calls {
		if err := step(t, r, call); err != nil {
			t.Fatalf("%s: %v", call, err)
		}
	}
}

const save = `query-migrate stop getfd{ fdname: $f } migrate{ uri: "fd:" $f } query-migrate+
	on abort closefd{ fdname: $f }? cont deadline 90s`

func TestRefusalsExplain(t *testing.T) {
	const before = `getfd {"fdname":"mig0"}`
	for _, c := range []struct {
		body   string
		before []string
		call   string
		want   string
	}{
		{"query-status* stop query-status*", nil, "screendump", "expected `query-status` or `stop`, got `screendump`"},
		{"query-status* stop", []string{"stop"}, "stop", "nothing more may follow, got `stop`"},
		{"stop", nil, "st\x1b\"op", "expected `stop`, got `st?\"op`"},
		{"(a|b|c)", nil, "d", "expected `a`, `b` or `c`, got `d`"},
		{save, []string{"query-migrate", "stop", before}, `migrate {"uri":"exec:cat"}`, "`migrate.uri` must be \"fd:mig0\", was \"exec:cat\""},
		{save, []string{"query-migrate", "stop", before}, `migrate {}`, "`migrate.uri` is missing, it must be \"fd:mig0\""},
		{save, []string{"query-migrate", "stop"}, `getfd`, "`getfd.fdname` is missing, it must be $f"},
		{save, []string{"query-migrate"}, `stop {"x":1,"a":2}`, "`stop.a` is not allowed"},
		{"a{ x: 1KiB..2GiB }", nil, `a {"x":1023}`, "`a.x` must be 1KiB..2GiB, was 1023"},
		{`a{ x: { y: ["p", integer*] } }`, nil, `a {"x":{"y":["p",1,"q"]}}`, "`a.x.y[2]` must be integer, was \"q\""},
		{`a{ x: [any, any] }`, nil, `a {"x":[1]}`, "`a.x` must be [any, any], was [1]"},
		{`a{ x: { y: 1 } }`, nil, `a {"x":5}`, "`a.x` must be { y: 1 }, was 5"},
		{`a{ x: { y: 1 } }`, nil, `a {"x":{"y":1,"z":2}}`, "`a.x.z` is not allowed"},
		{`a{ x: 1 | "p" }`, nil, `a {"x":null}`, "`a.x` must be 1 | \"p\", was null"},
		{`a{ x: 1 } | a{ x: 2 } b | a{ x: 1 } c`, nil, `a {"x":3}`, "`a.x` must be 1, was 3; or `a.x` must be 2, was 3"},
		{`a{ x: any as $v } b{ x: integer as $v }`, []string{`a {"x":5}`}, `b {"x":6}`, "`b.x` must be 5, was 6"},
		{`a{ x: $v }`, nil, fmt.Sprintf(`a {"x":%q}`, strings.Repeat("v", MaxCaptured+1)), "`a.x` must be $v, was \"" + strings.Repeat("v", 79) + "..."},
	} {
		r := compile(t, c.body).Start()
		steps(t, r, c.before...)
		expected := r.Expected()
		err := step(t, r, c.call)
		var refusal *Refusal
		if !errors.As(err, &refusal) || err.Error() != c.want {
			t.Errorf("%s: %s:\ngot  %v\nwant %s", c.body, c.call, err, c.want)
			continue
		}
		if !slices.Equal(refusal.Expected, expected) || !slices.Equal(r.Expected(), expected) {
			t.Errorf("%s: a refusal moved the run from %v to %v", c.body, expected, r.Expected())
		}
	}
}

func TestPredicates(t *testing.T) {
	for predicate, c := range map[string]struct{ yes, no []string }{
		`any`:                   {[]string{`null`, `1`, `{"a":[]}`}, nil},
		`null`:                  {[]string{`null`}, []string{`0`, `""`, `false`}},
		`true`:                  {[]string{`true`}, []string{`false`, `"true"`, `1`}},
		`"a"`:                   {[]string{`"a"`, `"\u0061"`}, []string{`"A"`, `"a "`, `"a\u0000"`, `["a"]`}},
		`5`:                     {[]string{`5`}, []string{`"5"`, `5.0`, `5e0`, `50e-1`, `6`, `-5`}},
		`0`:                     {[]string{`0`, `-0`}, []string{`0.0`}},
		`-5..-3`:                {[]string{`-5`, `-3`}, []string{`-6`, `-2`, `3`}},
		`..10`:                  {[]string{`10`, `-9223372036854775808`}, []string{`11`, `-9223372036854775809`, `1e0`}},
		`1..`:                   {[]string{`18446744073709551615`}, []string{`0`, `18446744073709551616`, `-18446744073709551615`}},
		`1KiB..1MiB`:            {[]string{`1024`, `1048576`}, []string{`1023`, `1048577`}},
		`2s`:                    {[]string{`2000`}, []string{`2`}},
		`string`:                {[]string{`""`}, []string{`1`, `null`}},
		`integer`:               {[]string{`1`, `-1`}, []string{`1.0`, `1e3`, `"1"`, `99999999999999999999`}},
		`number`:                {[]string{`1`, `1.5`, `1e300`}, []string{`"1"`, `true`}},
		`boolean`:               {[]string{`true`, `false`}, []string{`0`, `null`}},
		`object`:                {[]string{`{}`, `{"a":1}`}, []string{`[]`, `null`}},
		`list`:                  {[]string{`[]`, `[1]`}, []string{`{}`, `"[]"`}},
		`{}`:                    {[]string{`{}`}, []string{`{"a":1}`, `[]`}},
		`{ a?: 1, ... }`:        {[]string{`{}`, `{"a":1}`, `{"b":2}`}, []string{`{"a":2}`, `{"a":null}`}},
		`[]`:                    {[]string{`[]`}, []string{`[1]`, `{}`}},
		`[1, "a", ...]`:         {[]string{`[1,"a"]`, `[1,"a",null]`}, []string{`[1]`, `["a",1]`}},
		`[integer+]`:            {[]string{`[1]`, `[1,2]`}, []string{`[]`, `[1,"a"]`}},
		`[[1 | 2*]*]`:           {[]string{`[]`, `[[],[1,2]]`}, []string{`[1]`, `[[3]]`}},
		`1 | "a" | { x: 1 }`:    {[]string{`1`, `"a"`, `{"x":1}`}, []string{`2`, `{"x":2}`, `{}`}},
		`glob "disk-*.img"`:     {[]string{`"disk-.img"`, `"disk-a.img.img"`}, []string{`"disk-a.imgx"`, `"xdisk-.img"`, `1`}},
		`glob "a?c"`:            {[]string{`"abc"`, `"aéc"`}, []string{`"ac"`, `"abbc"`}},
		`glob "\\*\\?\\\\*"`:    {[]string{`"*?\\"`, `"*?\\x"`}, []string{`"a?\\"`, `"*?"`}},
		`glob "*a*a*b"`:         {[]string{`"aab"`, `"xaxaxb"`}, []string{`"ab"`, `"aaba"`}},
		`regexp "a|bc"`:         {[]string{`"a"`, `"bc"`}, []string{`"abc"`, `"ac"`, `"a\n"`, `"xa"`, `1`}},
		`regexp "[0-9]+(?:k)?"`: {[]string{`"5k"`}, []string{`"k"`, `""`}},
	} {
		m := compile(t, "a{ x: "+predicate+" }")
		for _, value := range c.yes {
			if err := step(t, m.Start(), `a {"x":`+value+`}`); err != nil {
				t.Errorf("%s refuses %s: %v", predicate, value, err)
			}
		}
		for _, value := range c.no {
			if step(t, m.Start(), `a {"x":`+value+`}`) == nil {
				t.Errorf("%s accepts %s", predicate, value)
			}
		}
	}
	long := strings.Repeat("a", MaxSubject)
	for _, predicate := range []string{`glob "*"`, `regexp "a*"`} {
		m := compile(t, "a{ x: "+predicate+" }")
		if m.Start().Step("a", map[string]any{"x": long}) != nil || m.Start().Step("a", map[string]any{"x": long + "a"}) == nil {
			t.Errorf("%s does not stop at %d bytes", predicate, MaxSubject)
		}
	}
	if compile(t, "a{ x: any }").Start().Step("a", map[string]any{"y": func() {}}) == nil {
		t.Error("a missing argument was accepted")
	}
	if compile(t, "a{ x: 1 }").Start().Step("a", map[string]any{"x": 1}) == nil {
		t.Error("an integer that no decoder with UseNumber makes was accepted")
	}
}

func TestCaptures(t *testing.T) {
	r := compile(t, save).Start()
	steps(t, r, "query-migrate", "stop", `getfd {"fdname":"mig0"}`, `migrate {"uri":"fd:mig0"}`, "query-migrate", "query-migrate")
	if !r.Done() {
		t.Error("not done")
	}
	for _, value := range []string{`1`, `"1"`, `true`, `null`, `{"a":[1,"b"],"c":null}`, `[]`, `1.50`} {
		m := compile(t, "a{ x: $v } b{ x: $v }")
		for _, other := range []string{`1`, `"1"`, `true`, `null`, `{"c":null,"a":[1,"b"]}`, `{"a":[1,"b"]}`, `[]`, `1.50`, `1.5`, `"n1"`, `"s1"`} {
			r := m.Start()
			steps(t, r, `a {"x":`+value+`}`)
			same := other == value || strings.HasPrefix(value, "{") && strings.HasPrefix(other, `{"c"`)
			if err := step(t, r, `b {"x":`+other+`}`); (err == nil) != same {
				t.Errorf("captured %s, then %s: %v", value, other, err)
			}
		}
	}
	// Both in one hypercall, in any order of the names.
	for _, body := range []string{`a{ x: $v, y: "n" $v }`, `a{ y: $v, x: "n" $v }`} {
		m := compile(t, body)
		want := `a {"x":"1","y":"n1"}`
		if strings.Contains(body, "y: $v") {
			want = `a {"x":"n1","y":"1"}`
		}
		if err := step(t, m.Start(), want); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if step(t, m.Start(), `a {"x":"1","y":"1"}`) == nil {
			t.Errorf("%s accepts two different values", body)
		}
	}
}

// What was captured still holds in the on-abort part.
func TestAbort(t *testing.T) {
	m := compile(t, save)
	if m.Deadline() != 90*time.Second || !slices.Equal(m.Commands(), []string{"closefd", "cont", "getfd", "migrate", "query-migrate", "stop"}) {
		t.Errorf("%v, %v", m.Deadline(), m.Commands())
	}
	r := m.Start()
	steps(t, r, "query-migrate", "stop", `getfd {"fdname":"mig0"}`)
	if r.Aborted() {
		t.Error("aborted by itself")
	}
	r.Abort()
	if !r.Aborted() || r.Done() || !slices.Equal(r.Expected(), []string{"closefd", "cont"}) {
		t.Errorf("after the abort: done %v, expects %v", r.Done(), r.Expected())
	}
	if err := step(t, r, `closefd {"fdname":"other"}`); err == nil || err.Error() != "`closefd.fdname` must be \"mig0\", was \"other\"" {
		t.Error(err)
	}
	steps(t, r, `closefd {"fdname":"mig0"}`)
	r.Abort()
	steps(t, r, "cont")
	if !r.Done() || step(t, r, "cont") == nil {
		t.Error("the on-abort part does not end")
	}
	r = compile(t, "a b").Start()
	r.Abort()
	if err := step(t, r, "a"); err == nil || err.Error() != "nothing more may follow, got `a`" || !r.Done() || len(r.Expected()) != 0 {
		t.Errorf("without an on-abort part: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	f := parse(t, `automaton one = a{ x: $v } b{ x: $v } on abort c{ x: $v } deadline 1s;
		automaton two = a{ x: 5 } d{ y: $w } on abort d deadline 5s;`)
	m, err := f.CompilePolicy()
	if err != nil {
		t.Fatal(err)
	}
	if m.Name() != "policy" || m.Deadline() != 5*time.Second {
		t.Errorf("%s, %v", m.Name(), m.Deadline())
	}
	r := m.Start()
	if !r.Done() {
		t.Error("a policy asks for something")
	}
	// Every round captures anew, and a common beginning stays open.
	steps(t, r, `a {"x":1}`)
	if r.Done() {
		t.Error("done inside an automaton")
	}
	steps(t, r, `b {"x":1}`, `a {"x":5}`, `d {"y":1}`, `a {"x":5}`, `b {"x":5}`, `a {"x":"z"}`)
	if step(t, r, `b {"x":5}`) == nil || step(t, r, `d {"y":1}`) == nil {
		t.Error("mixed up two rounds")
	}
	r.Abort()
	if step(t, r, `c {"x":5}`) == nil {
		t.Error("forgot what the aborted round captured")
	}
	steps(t, r, `c {"x":"z"}`)
	if m, err := parse(t, "automaton a = x deadline 1s; automaton b = y;").CompilePolicy(); err != nil || m.Deadline() != 0 {
		t.Errorf("an automaton without a deadline makes the policy's: %v, %v", m.Deadline(), err)
	}
}

// distinct repeats s with a number in place of #.
func distinct(n int, s string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(s, "#", fmt.Sprint(i)))
	}
	return b.String()
}

// However arguments and captures are made, one step is bounded.
func TestStepsAreBounded(t *testing.T) {
	big := map[string]any{}
	list := make([]any, 100_000)
	for i := range list {
		list[i] = strings.Repeat("a", 900)
	}
	big["x"] = list
	for name, body := range map[string]string{
		"regexps":  `(a{ x: [regexp "(a?){25}b"*] } | ` + strings.Repeat(`a{ x: [regexp "(a|aa)*b", ...] } | `, 60) + "b)*",
		"globs":    `a{ x: [glob "` + strings.Repeat("*a", 100) + `b"*] }`,
		"elements": "(" + distinct(500, "a{ x: [string*], y#?: any } | ") + "b)*",
		"captures": "(" + strings.Repeat("a{ x: $v } | ", 500) + "b)*",
	} {
		r := compile(t, body).Start()
		start := cpuTime(t)
		err := r.Step("a", big)
		if took := cpuTime(t) - start; took > 4*nastyTime {
			t.Errorf("%s: a step took %v (%v)", name, took, err)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Too many ways to capture are refused, and the run stays where it was.
func TestTooManyBindings(t *testing.T) {
	r := compile(t, "(a{ x: any } | a{ x: $v })* b{ x: $v }").Start()
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = step(t, r, fmt.Sprintf(`a {"x":%d}`, n))
	}
	if err == nil || !strings.Contains(err.Error(), "too much work") || n < 10 {
		t.Fatalf("after %d steps: %v", n, err)
	}
	steps(t, r, `b {"x":3}`)
	if !r.Done() {
		t.Error("not done")
	}
}

func TestStepsDoNotAllocate(t *testing.T) {
	m := compile(t, `(query-status | a{ x: 1..5, y: "p" | "q", z: { w: [integer*] }, g: glob "d*", r: regexp "[a-z]+" })* & (b c)*`)
	r := m.Start()
	args := arguments(t, `{"x":5,"y":"q","z":{"w":[1,2,3]},"g":"disk","r":"abc"}`)
	if n := testing.AllocsPerRun(100, func() {
		if r.Step("query-status", nil) != nil || r.Step("a", args) != nil || r.Step("b", nil) != nil || r.Step("c", nil) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Nor do they with captures, the first use included.
func TestStepsWithCapturesDoNotAllocate(t *testing.T) {
	m := compile(t, `(a{ x: string as $x, n: 1.. as $n } (b{ y: "fd:" $x ":r", n: $n } | query-status)* & (c d{ z: $z })*)`)
	a, b := arguments(t, `{"x":"mig0","n":12}`), arguments(t, `{"y":"fd:mig0:r","n":12}`)
	d := arguments(t, `{"z":"once"}`)
	var runs []*Run
	for range 102 {
		runs = append(runs, m.Start())
	}
	if n := testing.AllocsPerRun(100, func() {
		r := runs[0]
		runs = runs[1:]
		if r.Step("a", a) != nil || r.Step("b", b) != nil || r.Step("query-status", nil) != nil || r.Step("c", nil) != nil || r.Step("d", d) != nil || r.Step("b", b) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Steps must go on being right when the stamp that tells them apart wraps.
func TestStampWraps(t *testing.T) {
	r := compile(t, "(a b)*").Start()
	r.stamp = 1<<32 - 3
	for range 10 {
		steps(t, r, "a", "b")
	}
}
