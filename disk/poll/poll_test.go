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

// TestInVain: work that always comes after the look, and soon, is not looked for:
// maybe it only comes because its owner stopped looking.
func TestInVain(t *testing.T) {
	p := Poller{Most: 20 * time.Microsecond}
	looks := 0
	never := func() bool { looks++; return false }
	for range 20 * rest {
		before := looks
		p.Look(never)
		if looks > before {
			looks = before + 1
		}
		p.Slept(10 * time.Microsecond)
	}
	if looks < 20 || looks > 20*rest/5 {
		t.Errorf("looked %d of %d times", looks, 20*rest)
	}
	// It has not forgotten how to.
	found := 0
	for range 20 * rest {
		if p.Look(func() bool { return true }) {
			found++
		} else {
			p.Slept(10 * time.Microsecond)
		}
	}
	if found < 18*rest {
		t.Errorf("found %d of %d", found, 20*rest)
	}
}
