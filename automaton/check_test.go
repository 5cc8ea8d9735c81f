package automaton

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	f := parse(t, `part unused = a ; part used = b ; part also = @used ;
		automaton fine = @used c on abort @used ;
		automaton never = a{ x: regexp "a\\bb" } ;
		automaton denied = quit ;
		automaton large = (a|b)* a (a|b){20} ;
		automaton larger = a{4000} b{4000} ;`)
	got := f.Check(func(command string) error {
		if command == "quit" {
			return errors.New("the gate denies it")
		}
		return nil
	})
	want := []string{
		"part `@unused` is not used",
		"part `@also` is not used",
		"automaton `never`: no arguments satisfy a{ x: regexp \"a\\\\bb\" }",
		"automaton `never`: sequences are let through that can never be completed",
		"automaton `denied`: hypercall `quit`: the gate denies it",
		"automaton `large`: it is too large for a deterministic machine, so it cannot be compared with others",
		"automaton `larger` needs about 16004 states, at most 4096 are allowed: use smaller counts, or * instead",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := parse(t, "automaton t = a{ x: $f } b | quit ;").Check(nil); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// Captures do not hide what is wrong.
func TestCheckWithCaptures(t *testing.T) {
	got := parse(t, "automaton t = a{ x: $f } b{ y: regexp \"a\\\\bb\" } ;").Check(nil)
	if len(got) == 0 || !strings.Contains(got[0], "no arguments satisfy") {
		t.Errorf("%q", got)
	}
}

func TestShared(t *testing.T) {
	calls, err := Shared(compile(t, "query-status* stop balloon{ value: 1..5 } quit{ x: 1 } on abort cont"),
		compile(t, "(cont | balloon{ value: 4..9 } | query-status | quit)*"))
	if err != nil || len(calls) != 2 || calls[0].String() != `balloon {"value":4}` || calls[1].String() != "query-status" {
		t.Errorf("%v, %v", calls, err)
	}
	if calls, err := Shared(compile(t, "a{ x: $f } b"), compile(t, "a{ x: 5 }")); err != nil || len(calls) != 1 || calls[0].String() != `a {"x":5}` {
		t.Errorf("%v, %v", calls, err)
	}
	if _, err := Shared(compile(t, "(a|b)* a (a|b){20}"), compile(t, "a")); !errors.Is(err, ErrUndecided) {
		t.Error(err)
	}
}
