package automata

import (
	"testing"

	"github.com/uvbond/uvbond/automaton"
)

func TestChannel(t *testing.T) {
	call := func(kind string, port any) string {
		return map[bool]string{true: `uvbond-channel {"kind":"` + kind + `"}`}[port == nil]
	}
	forward := func(port string) string { return `uvbond-channel {"kind":"forward","port":` + port + `}` }
	for _, test := range []struct {
		kind     string
		port     uint16
		accepted string
		refused  []string
	}{
		{"console", 0, call("console", nil), []string{call("screen", nil), forward("22"), `uvbond-channel {"kind":"console","port":0}`, "uvbond-channel", query, "uvbond-read-console"}},
		{"screen", 0, call("screen", nil), []string{call("console", nil), forward("5900"), `uvbond-channel {"kind":"screen","x":1}`}},
		{"forward", 22, forward("22"), []string{forward("23"), forward("0"), forward(`"22"`), forward("22.5"), call("forward", nil), call("console", nil)}},
		{"forward", 65535, forward("65535"), []string{forward("65536"), forward("22")}},
	} {
		text, err := Channel(test.kind, test.port)
		if err != nil {
			t.Fatal(err)
		}
		f, err := automaton.Parse(test.kind, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile(test.kind)
		if err != nil {
			t.Fatal(err)
		}
		if m.Deadline() <= 0 {
			t.Errorf("%s: no deadline", test.kind)
		}
		r := m.Start()
		if r.Done() {
			t.Errorf("%s: done before the first hypercall", test.kind)
		}
		name, args := decode(t, test.accepted)
		if err := r.Step(name, args); err != nil || !r.Done() {
			t.Errorf("%s: %s: %v", test.kind, test.accepted, err)
		}
		if r.Step(name, args) == nil {
			t.Errorf("%s: accepted twice", test.kind)
		}
		for _, c := range test.refused {
			name, args := decode(t, c)
			if m.Start().Step(name, args) == nil {
				t.Errorf("%s: %s accepted", test.kind, c)
			}
		}
	}
	for _, wrong := range []struct {
		kind string
		port uint16
	}{{"console", 1}, {"screen", 5900}, {"forward", 0}, {"sound", 0}, {"", 0}, {"pause", 0}} {
		if text, err := Channel(wrong.kind, wrong.port); err == nil {
			t.Errorf("%v: %s", wrong, text)
		}
	}
}

// TestChannelsAreNotCommands: neither the toolstack nor a policy knows them.
func TestChannelsAreNotCommands(t *testing.T) {
	if len(ChannelNames()) != 3 {
		t.Errorf("%q", ChannelNames())
	}
	for _, kind := range ChannelNames() {
		if _, err := Native(kind); err == nil {
			t.Errorf("%s is a management command", kind)
		}
		if _, err := Policy(kind); err == nil {
			t.Errorf("a policy may hold %s", kind)
		}
	}
}
