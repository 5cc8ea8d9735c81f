package automaton

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFormatKeepsComments(t *testing.T) {
	const messy = `# Licence.

# What this is for.
import pause;import resume as go; # why
  part poll=query-status* ;# polls
automaton one =   # starts
  @poll ((stop))   # stops it
  # then goes on
  @pause.abort @go cont{x:1024KiB,
     a:2 # inside
  } on abort # the rest
     @poll deadline 120s
  # last
  ;
automaton two = (a very long group that does not fit | (on2 one line because{ it: "has so many words" }
   # a choice
   # of three
   | and more)* | at the end)+ ;

# end`
	const want = `# Licence.

# What this is for.
import pause ;
import resume as go ;  # why

part poll =
    query-status* ;  # polls

automaton one =
    # starts
    @poll stop  # stops it
        # then goes on
        @pause.abort @go cont{ a: 2, x: 1MiB }  # inside
    # the rest
    on abort @poll
    deadline 2min
    # last
    ;

automaton two =
    (
        a very long group that does not fit
        | (
            on2 one line because{ it: "has so many words" }
            # a choice
            # of three
            | and more
        )*
        | at the end
    )+ ;

# end
`
	got, err := Format("test", []byte(messy))
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if again, err := Format("test", []byte(got)); err != nil || again != got {
		t.Errorf("formatting again gives\n%s\n%v", again, err)
	}
}

func TestFormatErrors(t *testing.T) {
	for text, want := range map[string]string{
		"automaton t = ;":                  "expected a hypercall",
		"import p ; automaton t = @q ;":    "there is no part `@q`",
		"import p ; automaton t = @p.x.y;": "",
		"import p ; import p ;":            "defined twice",
	} {
		_, err := Format("test", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What ships is formatted.
func TestShippedAreFormatted(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "automata", "*", "*.uva"))
	if err != nil || len(names) == 0 {
		t.Fatal("no automata", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Format(name, text); err != nil || got != string(text) {
			t.Errorf("%s is not formatted (%v); it would be\n%s", name, err, got)
		}
	}
}

var commentLine = regexp.MustCompile(`#[^\n"]*\n`)

// checkFormat holds that formatting keeps the meaning and all comments, and
// that it has nothing to do a second time.
func checkFormat(t *testing.T, text string) {
	t.Helper()
	got, err := Format("test", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(got) > MaxText {
		return
	}
	if parse(t, got).String() != parse(t, text).String() {
		t.Fatalf("the meaning changes from\n%s\nto\n%s", text, got)
	}
	if again, err := Format("test", []byte(got)); err != nil || again != got {
		t.Fatalf("formatting again changes\n%s\nto\n%s\n%v", got, again, err)
	}
}

func TestFormatRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 1500 {
		text := "part p = " + randomExpression(r, 2, true) + ";\nautomaton t = @p " + randomExpression(r, 2+r.IntN(4), true) +
			" on abort " + randomExpression(r, 1, true) + " deadline 5s ;"
		if strings.Contains(text, "\n#") {
			t.Fatal("comments are not expected yet")
		}
		var b strings.Builder
		inString := false
		for i, c := range text {
			if c == '"' {
				inString = !inString
			}
			if c == ' ' && !inString && r.IntN(12) == 0 {
				b.WriteString([]string{" # c\n", "\n# d\n", "\n\n# e\n\n", "#f\n#g\n"}[r.IntN(4)])
			}
			b.WriteString(text[i : i+1])
		}
		commented := b.String()
		checkFormat(t, commented)
		got, _ := Format("test", []byte(commented))
		trim := func(text string) []string {
			list := commentLine.FindAllString(text, -1)
			slices.Sort(list)
			return list
		}
		if !slices.Equal(trim(got), trim(commented)) {
			t.Fatalf("comments differ between\n%s\nand\n%s", commented, got)
		}
		if plain, err := Format("test", []byte(text)); err != nil || plain != parse(t, text).String() {
			t.Fatalf("without comments it is not the canonical form:\n%s\n%s", plain, parse(t, text))
		}
	}
}
