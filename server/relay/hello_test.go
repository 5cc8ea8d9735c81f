package relay

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzHello: what is taken is within its bounds, and has one meaning.
func FuzzHello(f *testing.F) {
	for _, s := range []string{
		`{"kind":"console","port":0,"ticket":"dGlja2V0"}`, `{"ticket":"dGlja2V0","kind":"forward","port":65535}`,
		`{"kind":"console","kind":"screen","ticket":"YQ=="}`, `{"Kind":"console","ticket":"YQ=="}`, `{"kind":"console","ticket":[97]}`,
		`{"kind":"console","port":65536,"ticket":"YQ=="}`, `{"kind":"console","ticket":"YQ=="}x`, `{"kind":null,"ticket":"YQ=="}`, `[{"kind":"console"}]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHello(data)
		if err != nil {
			if strings.Contains(err.Error(), "YQ") {
				t.Fatalf("the error repeats the ticket: %v", err)
			}
			return
		}
		if len(h.Ticket) == 0 || len(h.Ticket) > MaxTicket || !kindPattern.MatchString(h.Kind) {
			t.Fatalf("took %+v", h)
		}
		again, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if o, err := ParseHello(again); err != nil || o.Kind != h.Kind || o.Port != h.Port || string(o.Ticket) != string(h.Ticket) {
			t.Fatalf("%q is read as %+v, %v", again, o, err)
		}
	})
}

func TestHelloTakesTheLargestTicket(t *testing.T) {
	largest, err := json.Marshal(Hello{Kind: "console", Ticket: make([]byte, MaxTicket)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseHello(largest); err != nil {
		t.Fatal(err)
	}
	larger, err := json.Marshal(Hello{Kind: "console", Ticket: make([]byte, MaxTicket+1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseHello(larger); err == nil {
		t.Fatal("took a larger one")
	}
}
