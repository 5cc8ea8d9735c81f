package poll

import (
	"testing"
	"time"
)

func TestPoller(t *testing.T) {
	looks := 0
	never := func() bool { looks++; return false }
	for _, most := range []time.Duration{0, time.Millisecond} {
		p := Poller{Most: most}
		if p.Look(never) || looks > 0 {
			t.Fatal("it looks before it knows that it pays")
		}
	}
	p := Poller{Most: 20 * time.Microsecond}
	for range 10 {
		p.Slept(15 * time.Microsecond)
	}
	if p.now < 15*time.Microsecond || p.now > p.Most {
		t.Errorf("it looks for %v when work comes after 15 µs", p.now)
	}
	if p.Look(never) || looks == 0 {
		t.Error("it does not look")
	}
	if !p.Look(func() bool { return true }) {
		t.Error("it does not find")
	}
	looks = 0
	p.Slept(time.Second)
	if p.Look(never) || looks > 0 {
		t.Error("it looks though work comes late")
	}
	p = Poller{}
	p.Slept(time.Microsecond)
	if p.Look(never) || looks > 0 {
		t.Error("it looks though it must not")
	}
}
