package automaton

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// library resolves imports from a map of texts.
func library(texts map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if text, ok := texts[name]; ok {
			return []byte(text), nil
		}
		return nil, errors.New("it is not in the library")
	}
}

func TestParts(t *testing.T) {
	f := parse(t, `part poll = query-status* ;  # comment
		part undo = closefd{ fdname: $f }? cont ;
		part both = (@poll @undo | a) ;
		automaton one = @poll stop getfd{ fdname: $f } @poll on abort @both;
		automaton two = (@poll){2,} stop@poll;`)
	want := `part poll =
    query-status* ;

part undo =
    closefd{ fdname: $f }? cont ;

part both =
    @poll @undo | a ;

automaton one =
    @poll stop getfd{ fdname: $f } @poll
    on abort @both ;

automaton two =
    @poll{2,} stop @poll ;
`
	if f.String() != want {
		t.Errorf("got\n%s", f)
	}
	checkCanonical(t, f)
	two, err := f.Compile("two")
	if err != nil || !two.Deterministic() || two.States() != 2 {
		t.Fatal(err, two)
	}
	if d, err := Equal(two, compile(t, "query-status* stop query-status*")); d != nil || err != nil {
		t.Error(d, err)
	}
	one, err := f.Compile("one")
	if err != nil {
		t.Fatal(err)
	}
	r := one.Start()
	steps(t, r, "query-status", "stop", `getfd {"fdname":"x"}`)
	r.Abort()
	if step(t, r, `closefd {"fdname":"y"}`) == nil {
		t.Error("a part has its own captures")
	}
	steps(t, r, "query-status", `closefd {"fdname":"x"}`, "cont")
}

func TestPartErrors(t *testing.T) {
	for text, want := range map[string]string{
		"automaton t = @p;":                   "there is no part `@p` here",
		"part p = @p;":                        "there is no part `@p` here",
		"automaton t = @q; part q = a;":       "define it before it is used",
		"part p = a; part p = b;":             "part `p` is defined twice",
		"part p = a on abort b;":              "a part has no `on`",
		"part p = a deadline 3s;":             "a part has no `deadline`",
		"part p = a":                          "end every automaton with ;",
		"part p = a)":                         "closes nothing",
		"part on = a;":                        "expected the part's name",
		"part p a;":                           "expected `=` after the part's name",
		"automaton t = @ p;":                  "`@` without a name",
		"part p = a; automaton t = b{x: @p};": "expected a value, found `@p`",
		"import x;":                           "cannot be imported here",
		"import;":                             "expected the name of an automaton",
		"import x":                            "expected `;` after an import",
		"import x as;":                        "expected a name after `as`",
		strings.Repeat("part p# = a; ", 129):  "more than 128 parts",
		"part p = " + strings.Repeat("() ", 100) + "; automaton t = " + strings.Repeat("@p ", 5000) + ";": "more than 4096 hypercalls and parts",
	} {
		if strings.Contains(text, "#") {
			text = distinct(129, "part p# = a; ")
		}
		if _, err := Parse("test", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

func TestImports(t *testing.T) {
	texts := map[string]string{
		"pause":   "part poll = query-status* ; part unused = x ; automaton pause = @poll stop @poll on abort @poll deadline 30s ; automaton other = y ;",
		"capture": `automaton capture = getfd{ fdname: $f } on abort closefd{ fdname: $f } ;`,
		"nested":  "import pause as p ; automaton nested = @p cont on abort @p.abort ;",
		"loop":    "import loop ; automaton loop = a ;",
		"missing": "automaton x = a ;",
		"wrong":   "automaton wrong = * ;",
		"huge":    "automaton huge = a ; #" + strings.Repeat("x", MaxText-100),
	}
	f, err := ParseImports("test", []byte(`import nested ; import capture as c ; import pause ;
		automaton t = z{ x: $a } @nested @c migrate{ uri: "fd:" $f } on abort @c.abort ;`), library(texts))
	if err != nil {
		t.Fatal(err)
	}
	want := `part nested.p.poll =
    query-status* ;

part nested.p =
    @nested.p.poll stop @nested.p.poll ;

part nested =
    @nested.p cont ;

part c.abort =
    closefd{ fdname: $f } ;

part c =
    getfd{ fdname: $f } ;

automaton t =
    z{ x: $a } @nested @c migrate{ uri: "fd:" $f }
    on abort @c.abort ;
`
	if f.String() != want {
		t.Errorf("got\n%s", f)
	}
	checkCanonical(t, f) // needs no imports any more
	m, err := f.Compile("t")
	if err != nil {
		t.Fatal(err)
	}
	r := m.Start()
	steps(t, r, `z {"x":1}`, "stop", "query-status", "cont", `getfd {"fdname":"m"}`)
	if step(t, r, `migrate {"uri":"fd:x"}`) == nil {
		t.Error("an imported capture is another one")
	}
	r.Abort()
	steps(t, r, `closefd {"fdname":"m"}`)
	for text, want := range map[string]string{
		"import none ;":                                     "it is not in the library",
		"import loop ;":                                     "more than 8 imports inside each other",
		"import missing ;":                                  "does not define it",
		"import wrong ;":                                    "import wrong:1:19: expected a hypercall",
		"import huge ; import huge as again ;":              "at most 65536 are allowed, imports included",
		"import pause ; import pause ;":                     "part `pause.poll` is defined twice",
		"import nested as " + strings.Repeat("n", 60) + ";": "import it as a shorter name",
	} {
		if _, err := ParseImports("test", []byte(text), library(texts)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

// Parts that double each other are refused before they are written out.
func TestPartsDoNotExplode(t *testing.T) {
	text := "part p0 = a ;"
	for i := 1; i < 100; i++ {
		text += fmt.Sprintf("part p%d = @p%d @p%d | (@p%d)* ;", i, i-1, i-1, i-1)
	}
	start := cpuTime(t)
	_, err := parse(t, text+"automaton t = @p99 ;").Compile("t")
	if err == nil || !strings.Contains(err.Error(), "4096 are allowed") || cpuTime(t)-start > nastyTime {
		t.Errorf("%v after %v", err, cpuTime(t)-start)
	}
}
