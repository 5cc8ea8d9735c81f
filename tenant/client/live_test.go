package client

import (
	"errors"
	"strings"
	"testing"
)

func TestLiveOutcome(t *testing.T) {
	const step = `{"hypercall":{"command":"st\u001bop","answered":true,"class":"x"}}` + "\n"
	var told []string
	out, err := liveOutcome(strings.NewReader(step+`{"other":1}`+"\n"+`{"result":{"outcome":"done","receipt":"YQ=="}}`), func(h Hypercall) { told = append(told, h.Command+h.Class) })
	if err != nil || out.Outcome != "done" || string(out.Receipt) != "a" {
		t.Fatalf("%+v %v", out, err)
	}
	if len(told) != 1 || strings.ContainsRune(told[0], 0x1b) {
		t.Fatalf("told %q", told)
	}
	var sent *SentError
	for _, c := range []struct {
		text string
		is   func(error) bool
	}{
		{"", func(err error) bool { return errors.As(err, &sent) }},
		{step, func(err error) bool { return errors.As(err, &sent) }},
		{step + "<html>", func(err error) bool { return errors.Is(err, ErrGarbage) }},
		{`{"result":[]}`, func(err error) bool { return errors.Is(err, ErrGarbage) }},
		{strings.Repeat(step, maxHypercalls+1), func(err error) bool { return errors.Is(err, ErrTooLarge) }},
	} {
		if out, err := liveOutcome(strings.NewReader(c.text), func(Hypercall) {}); out != nil || !c.is(err) {
			t.Errorf("%.40q: %v %v", c.text, out, err)
		}
	}
}

func FuzzLiveOutcome(f *testing.F) {
	f.Add(`{"hypercall":{"command":"stop","arguments":{"a":[1]},"answered":false}}` + "\n" + `{"result":{"outcome":"done"}}`)
	f.Add(`{"hypercall":null}{"result":{"receipt":"*"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		n := 0
		out, err := liveOutcome(strings.NewReader(text), func(Hypercall) { n++ })
		if (out == nil) == (err == nil) || n > maxHypercalls {
			t.Fatalf("%v %v, %d told", out, err, n)
		}
	})
}
