package poll

import (
	"testing"
	"time"
)

func TestPoller(t *testing.T) {
	if (&Poller{}).Look(func() bool { t.Error("looked"); return true }) {
		t.Error("found")
	}
	p := Poller{Most: time.Nanosecond}
	looks := 0
	never := func() bool { looks++; return false }
	for range 10 * probe {
		p.Look(never)
	}
	if looks < 10 || looks > 20 {
		t.Errorf("%d looks in vain in %d sleeps", looks, 10*probe)
	}
	for range 2 * probe {
		p.Look(func() bool { return true })
	}
	looks = 0
	for range best {
		p.Look(never)
	}
	if looks != best {
		t.Errorf("%d looks after it paid", looks)
	}
	if p.Look(never); looks != best {
		t.Error("it looks for ever")
	}
}
