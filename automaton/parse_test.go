package automaton

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func parse(t testing.TB, text string) *File {
	t.Helper()
	f, err := Parse("test", []byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return f
}

func compile(t testing.TB, body string) *Machine {
	t.Helper()
	m, err := parse(t, "automaton t = "+body+";").Compile("t")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFormat(t *testing.T) {
	for text, want := range map[string]string{
		"a":                                      "a",
		"((a)) (b c) d":                          "a b c d",
		"a|(b|c)":                                "a | b | c",
		"a|b c & d":                              "a | b c & d",
		"(a|b)&(c d)":                            "(a | b) & c d",
		"(a b)* (a|b)? a{}{2}":                   "(a b)* (a | b)? a{2}",
		"(a*)? a{2,} a{0,1}":                     "(a*)? a{2,} a?",
		"() ()*":                                 "() ()*",
		"a{...}":                                 "a{ ... }",
		"a{z:1,\"y z\"?:any ...}b":               `a{ "y z"?: any, z: 1, ... } b`,
		`a{x:1024KiB,y:..90s,z:0..1GiB,w:-5..}`:  "a{ w: -5.., x: 1MiB, y: ..90s, z: 0B..1GiB }",
		`a{x: "\u00e9\n\"" | true|false | null}`: `a{ x: "é\n\"" | true | false | null }`,
		`a{x: "fd:" $f ":r", y: any as $g, z: string as $f}`:         `a{ x: "fd:" $f ":r", y: $g, z: string as $f }`,
		`a{x:[],y:[1,any*],z:[1 | 2 +],w:[{},integer,...]}`:          `a{ w: [{}, integer, ...], x: [], y: [1, ...], z: [1 | 2+] }`,
		`a{x: glob "a*", y: regexp "a|b", z: { number: list, ... }}`: `a{ x: glob "a*", y: regexp "a|b", z: { number: list, ... } }`,
		"query-x.y_z a.b-c": "query-x.y_z a.b-c",
	} {
		f := parse(t, "automaton t = "+text+";")
		want = "automaton t =\n    " + want + " ;\n"
		if f.String() != want {
			t.Errorf("%s is written as\n%swant\n%s", text, f, want)
		}
		checkCanonical(t, f)
	}
}

// checkCanonical tests what the canonical form promises.
func checkCanonical(t *testing.T, f *File) {
	t.Helper()
	text := f.String()
	back, err := Parse("canonical", []byte(text))
	if len(text) > MaxText {
		return // longer than what it came from, and so too long to read
	}
	if err != nil {
		t.Fatalf("the canonical form does not parse:\n%s\n%v", text, err)
	}
	if back.String() != text || back.Hash() != f.Hash() {
		t.Fatalf("the canonical form changes:\n%s\n%s", text, back)
	}
	for _, file := range []*File{f, back} { // they stand at other places
		for _, d := range slices.Concat(file.parts, file.automata) {
			for _, n := range []*node{d.body, d.abort} {
				for _, c := range n.commands(nil) {
					c.at = origin{}
				}
			}
		}
	}
	if !reflect.DeepEqual(f, back) {
		t.Fatalf("the canonical form means something else:\n%s", text)
	}
}

func TestFormatWholeFile(t *testing.T) {
	f := parse(t, `# comment
automaton one = a on abort b|c deadline 120s; automaton two = `+strings.Repeat("query-something ", 9)+" deadline 90s on abort ();")
	want := `automaton one =
    a
    on abort b | c
    deadline 2min ;

automaton two =
    query-something query-something query-something query-something query-something
        query-something query-something query-something query-something
    on abort ()
    deadline 90s ;
`
	if f.String() != want {
		t.Errorf("got\n%s", f)
	}
	checkCanonical(t, f)
	if f.Hash() == parse(t, "automaton one = a;").Hash() {
		t.Error("different texts have the same hash")
	}
	if f.Hash() != parse(t, "#other\n"+want).Hash() {
		t.Error("a comment changes the hash")
	}
}

func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"x":                                            "expected `automaton`, found `x`",
		"automaton":                                    "expected the automaton's name",
		"automaton on = a;":                            "expected the automaton's name",
		"automaton t a;":                               "expected `=`",
		"automaton t = ;":                              "() stands for no hypercall",
		"automaton t = a":                              "end every automaton with ;",
		"automaton t = a automaton u = b;":             "end every automaton with ;",
		"automaton t = a; automaton t = b;":            "defined twice",
		"automaton t = (a;":                            "`(` is never closed",
		"automaton t = a);":                            "`)` closes nothing",
		"automaton t = a | ;":                          "expected a hypercall or `(`",
		"automaton t = * a;":                           "expected a hypercall or `(`, found `*`",
		"automaton t = a*?;":                           "to repeat twice over, use parentheses",
		"automaton t = a{1000}{1000};":                 "to repeat twice over, use parentheses",
		"automaton t = \"stop\";":                      "without quotes",
		"automaton t = a // x":                         "comments start with #",
		"automaton t = a on b;":                        "expected `abort`",
		"automaton t = a on abort b on abort c;":       "given twice",
		"automaton t = a deadline 1s deadline 2s;":     "given twice",
		"automaton t = a deadline 30;":                 "a deadline is a duration",
		"automaton t = a deadline 0s;":                 "a deadline is a duration",
		"automaton t = a deadline 1KiB;":               "a deadline is a duration",
		"automaton t = a deadline 25h;":                "a deadline is a duration",
		"automaton t = a deadline b;":                  "expected a duration",
		"automaton t = a{3,2};":                        "write {2,3}",
		"automaton t = a{0};":                          "zero times is never",
		"automaton t = a{5000};":                       "between 0 and 4096",
		"automaton t = a{99999999999999999999};":       "between 0 and 4096",
		"automaton t = a{,3};":                         "expected a count",
		"automaton t = a{2s};":                         "expected a count",
		"automaton t = a{1;":                           "expected `}`",
		"automaton t = a{x};":                          "expected `:`",
		"automaton t = a{x=1};":                        "write name: value",
		"automaton t = a{x:};":                         "expected a value",
		"automaton t = a{x: 1 y: 2};":                  "separated by commas",
		"automaton t = a{..., x: 1};":                  "... comes last",
		"automaton t = a{x: 1, x: 2};":                 "`x` is given twice",
		"automaton t = a{x: running};":                 `text stands in quotes: "running"`,
		"automaton t = a{x: 5MB};":                     "unknown unit `MB`",
		"automaton t = a{x: 1s..2KiB};":                "mixes sizes and times",
		"automaton t = a{x: 3..2};":                    "the range is empty",
		"automaton t = a{x: ..};":                      "expected an integer after `..`",
		"automaton t = a{x: 18446744073709551616};":    "too large",
		"automaton t = a{x: 20000000TiB};":             "too large",
		"automaton t = a{x: -9223372036854775809};":    "too large",
		"automaton t = a{x: $};":                       "`$` without a name",
		"automaton t = a{x: $v | 1};":                  "inside a choice",
		"automaton t = a{x: { y: $v } | 1};":           "inside a choice",
		"automaton t = a{x: $v \"-\" $w};":             "second capture",
		"automaton t = a{x: \"\" $w};":                 "says nothing",
		"automaton t = a{x: $w \"\"};":                 "says nothing",
		"automaton t = a{x: $v as $w};":                "two captures",
		"automaton t = a{x: 1 as 2};":                  "write: as $name",
		"automaton t = a{x: [1* , 2]};":                "a repeated one and ... come last",
		"automaton t = a{x: ...};":                     "write any",
		"automaton t = a{x: 'a'};":                     "double quotes",
		"automaton t = a{x: \"a\n\"};":                 "string has no end",
		"automaton t = a{x: \"\\q\"};":                 "not well formed",
		"automaton t = a{x: glob 5};":                  "expected a string after `glob`",
		"automaton t = a{x: regexp \"(\"};":            "missing closing",
		"automaton t = a{x: regexp \"a)|(b\"};":        "regular expression",
		"automaton t = a{x: regexp \"(?i)a\"};":        "flags",
		"automaton t = a{x: regexp \"\\\\pL\"};":       "classes of Unicode",
		"automaton t = a{x: regexp \"(a{30}){30}\"};":  "too large",
		"automaton t = \xff;":                          "not valid UTF-8",
		"automaton " + strings.Repeat("n", 65) + "=a;": "longer than 64 bytes",
		"automaton t = a\x00;":                         "unexpected character `?`",
	} {
		_, err := Parse("test", []byte(text))
		var s *SyntaxError
		if !errors.As(err, &s) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

func TestSyntaxErrorShowsThePlace(t *testing.T) {
	_, err := Parse("pause.uva", []byte("# é\nautomaton pause =\n\tquery-status* { x: 1 } stop ;\n"))
	want := "pause.uva:3:16: unexpected `{` after a repetition\n" +
		"     query-status* { x: 1 } stop ;\n" +
		"                   ^\n" +
		"    hint: to repeat twice over, use parentheses: (a{2,3})*"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	// Long lines are cut around the fault, and escapes do not reach a terminal.
	_, err = Parse("x", []byte("automaton t = "+strings.Repeat("a ", 500)+"\x1b[31m 'b' "+strings.Repeat("c ", 500)))
	var s *SyntaxError
	if !errors.As(err, &s) || s.Col != 1015 || len(s.Text) > 110 || s.Caret > len(s.Text) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("got %+v", s)
	}
}

func TestCompileErrors(t *testing.T) {
	f := parse(t, "automaton a = x; automaton b = ((x{1000}){1000}){1000};")
	if _, err := f.Compile("c"); err == nil || !strings.Contains(err.Error(), "`c`: the text holds a, b") {
		t.Error(err)
	}
	if _, err := f.Compile("b"); err == nil || !strings.Contains(err.Error(), "4096 are allowed") {
		t.Error(err)
	}
	if _, err := f.CompilePolicy(); err == nil {
		t.Error("a policy was compiled with an automaton that is too large")
	}
	if m, err := f.Compile("a"); err != nil || m.States() != 2 || m.Name() != "a" {
		t.Error(m, err)
	}
	if _, err := parse(t, "").Compile("x"); err == nil || !strings.Contains(err.Error(), "holds none") {
		t.Error(err)
	}
}

// A word that is nearly right is answered with the right one.
func TestNearHints(t *testing.T) {
	for text, want := range map[string]string{
		"part poll = a ; automaton t = @pol ;": "did you mean @poll?",
		"automaton t = a{ x: strng } ;":        "did you mean string?",
		"automaton t = a{ x: Null } ;":         "did you mean null?",
		"automaton t = a{ x: 5kib } ;":         "did you mean KiB?",
		"automaton t = a{ x: something } ;":    "text stands in quotes",
		"automaton t = @x ;":                   "define it before it is used",
	} {
		_, err := Parse("t", []byte(text))
		var s *SyntaxError
		if !errors.As(err, &s) || !strings.Contains(s.Hint, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// fill repeats part to the largest text.
func fill(before, part, after string) string {
	return before + strings.Repeat(part, (MaxText-len(before)-len(after))/len(part)) + after
}

// cpuTime is what this process has used, so that others on the machine do not
// count.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Nothing of 64 KiB takes long to parse and compile, or much memory.
func TestNastyTexts(t *testing.T) {
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	texts := map[string]string{
		"too long":          "#" + many(MaxText, "x"),
		"comment":           fill("", "#\n", ""),
		"sequence":          fill("automaton t = ", "a ", ";"),
		"choice":            fill("automaton t = a", "|a", ";"),
		"shuffle":           fill("automaton t = a", "&a", ";"),
		"shuffle to limit":  "automaton t = a{30} & b{30} & c?;",
		"nested shuffles":   "automaton t = ((a&b)&(c&d))&((e&f)&(g&h));",
		"largest sequence":  "automaton t = " + many(4000, "a ") + ";",
		"options":           "automaton t = a{0,1300};",
		"nested counters":   "automaton t = " + many(60, "(") + "a" + many(60, "{4096})") + ";",
		"nested empty":      "automaton t = " + many(60, "(") + many(60, "){4096}") + ";",
		"nested stars":      "automaton t = " + many(60, "(") + "a" + many(60, ")*") + ";",
		"deep groups":       fill("automaton t = ", "(", ""),
		"deep objects":      fill("automaton t = a", "{x:", ""),
		"deep lists":        fill("automaton t = a{x:", "[", ""),
		"members":           fill("automaton t = a{", "x:1,", "};"),
		"values":            fill("automaton t = a{x:1", "|1", "};"),
		"elements":          fill("automaton t = a{x:[", "1,", "]};"),
		"regexps":           fill("automaton t = a{x:any", `|regexp "[^a](b{99}){2}"`, "};"),
		"largest regexps":   "automaton t = a{x:any" + many(MaxPatterns, `|regexp "`+many(100, "[a-z]")+`"`) + "};",
		"folding":           fill("automaton t = a{x:any", `|regexp "(?i)\\pL"`, "};"),
		"large repeat":      "automaton t = a{x: regexp \"(((a{10}){10}){10}){10}\"};",
		"captures":          fill("automaton t = a{x:", "$a as ", ""),
		"many captures":     "automaton t = " + many(20, "a{x: $v} ") + strings.ReplaceAll(many(20, "a{x: $v#} "), "#", "w") + ";",
		"digits":            fill("automaton t = a{x:", "9", "};"),
		"string":            fill("automaton t = a{x:\"", `\"`, "\"};"),
		"names":             fill("automaton t = ", "a", ";"),
		"automata":          fill("", "automaton t = a;", ""),
		"quotes":            fill("", "\"", ""),
		"dots":              fill("automaton t = a{", ".", "};"),
		"units":             fill("automaton t = a{x:1", "s", "};"),
		"line without end":  fill("automaton t = (", "a ", ""),
		"alike elements":    "automaton t = " + distinct(60, "a{x:["+many(400, "1,")+"#]} | ") + "b;",
		"distinct texts":    "automaton t = (" + distinct(1200, "a{x:\"#\"} | ") + "b)*;",
		"distinct numbers":  "automaton t = (" + distinct(1200, "a{x:#} | ") + "b)*;",
		"distinct keys":     "automaton t = (" + distinct(1200, "a{x#?:1, ...} | ") + "b)*;",
		"few distinct keys": "automaton t = (" + distinct(9, "a{x#?:1, ...} b | ") + "b)*;",
		"distinct names":    "automaton t = (" + distinct(1200, "a#{x:1} | ") + "b)*;",
		"globs at once":     "automaton t = (" + distinct(60, "a{x:glob \"*a?#*b*c?d\"} | ") + "b)*;",
		"two long globs":    "automaton t = (a{x:glob \"*a" + many(100, "?") + "\"} | a{x:glob \"*b" + many(100, "?") + "c\"})*;",
		"regexps at once":   "automaton t = (" + distinct(8, "a{x:regexp \"(a|b)*a(a|b){#}\"} | ") + "b)*;",
		"subsets explode":   "automaton t = (a|b)* a (a|b){20};",
		"subsets near":      "automaton t = (a|b)* a (a|b){11};",
		"grids":             "automaton t = a{12} & b{12} & c{12};",
		"overlapping loops": "automaton t = (" + distinct(40, "(a{#} b)* ") + ")*;",
		"every class":       "automaton t = (" + distinct(400, "a{x:#} b{x:\"#\"} a{...} ") + ")*;",
		"many trees":        "automaton t = ((" + distinct(9, "a{x#?:1, ...} b# | ") + "z){60})*;",
		"large trees":       "automaton t = ((" + distinct(10, "a{x#?:1, ...} (b#)* | ") + "z){20})*;",
		"overlapping":       "automaton t = (" + distinct(300, "a{x:#.., ...} b# | ") + "z)*;",
		"many classes":      "automaton t = " + distinct(400, "qom-get{path: \"/machine\", property: \"p#\"} ") + ";",
		"options in loops":  "automaton t = ((a? b? c?)* (d? e?)*){100};",
		"policies of loops": strings.ReplaceAll(many(60, "automaton #t = (a|b)* & (c|d)*;"), "#", "t"),
	}
	for name, text := range maps.Clone(texts) { // the same with a value kept on the way
		if rest, ok := strings.CutPrefix(text, "automaton t = "); ok && len(text) < MaxText-50 {
			texts[name+", kept"] = "automaton t = first{ k: $k } (" + strings.TrimSuffix(rest, ";") + ");"
		}
	}
	found, err := filepath.Glob(filepath.Join("testdata", "nasty", "*.uva")) // by a search at random
	if err != nil || len(found) == 0 {
		t.Fatal("no nasty texts", err)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := cpuTime(t)
			f, err := Parse("nasty", []byte(text))
			if err == nil {
				if names := f.Names(); len(names) > 0 {
					_, err = f.Compile(names[0])
				}
			}
			took := cpuTime(t) - start
			runtime.ReadMemStats(&after)
			t.Logf("%v, %d KiB", took, (after.TotalAlloc-before.TotalAlloc)>>10)
			if start = cpuTime(t); f != nil {
				_ = f.Hash()
				_, _ = f.CompilePolicy()
				_, _ = Format("nasty", []byte(text))
			}
			if formatting := cpuTime(t) - start; formatting > nastyTime {
				t.Errorf("the policy and formatting took %v", formatting)
			}
			if took > nastyTime {
				t.Errorf("took %v (%v)", took, err)
			}
			// What is allocated on the way is more than what stays.
			if used := after.TotalAlloc - before.TotalAlloc; used > nastyBytes {
				t.Errorf("allocated %d MiB in all (%v)", used>>20, err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
		})
	}
}

// FuzzParse holds that any text parses and compiles quickly or is refused, and
// that the canonical form is one. Seeds are the automata that ship.
func FuzzParse(f *testing.F) {
	names, err := filepath.Glob(filepath.Join("..", "automata", "*", "*.uva"))
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds in automata (%v)", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`automaton t = a{ x: "fd:" $f ":r" | 1, y?: [integer, glob "a*" +] }{1,3} & (b | c{...})* on abort d{ f: $f } deadline 90s;`)
	f.Add(`part p = a{ x: $v }* ; part q = @p | b ; automaton t = @q{2} & @p on abort @q ;`)
	f.Add(`automaton t = a{ x: -5..1KiB, y: 1s.., z: { q: regexp "a+" as $v }, "k y": null | true } () ;`)
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("fuzz", []byte(text))
		if err != nil {
			_ = err.Error()
			return
		}
		checkCanonical(t, file)
		if _, err := Format("fuzz", []byte(text)); err != nil {
			t.Fatal(err)
		}
		for _, name := range file.Names() {
			m, err := file.Compile(name)
			if err != nil {
				continue
			}
			if m.States() > MaxStates {
				t.Fatalf("%d states", m.States())
			}
			r := m.Start()
			for _, command := range m.Commands() {
				if err := r.Step(command, map[string]any{"x": "fd:1"}); err != nil {
					_ = err.Error()
				}
			}
			r.Abort()
			r.Expected()
		}
		_, _ = file.CompilePolicy()
	})
}
