package machine

import (
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// TestListeners: all who listen get the events of an instance, a slow one the
// newest, and nobody after stop.
func TestListeners(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	first, stop := b.machine().Events()
	slow, stopSlow := b.machine().Events()
	b.up()
	for range eventBuffer + 5 {
		b.exec(qmp.CmdStop)
	}
	b.exec(qmp.CmdSystemReset)
	for seen := ""; seen != "RESET"; {
		select {
		case e := <-first:
			seen = e.Event
		case <-time.After(15 * time.Second):
			t.Fatal("the reset was not told of")
		}
	}
	stop()
	stop()
	if _, open := <-first; open {
		t.Error("the channel is open after stop")
	}
	stopSlow()
	last, n := "", 0
	for e := range slow {
		last, n = e.Event, n+1
	}
	if last != "RESET" || n > eventBuffer {
		t.Errorf("a slow listener has %d events, the last of them %s", n, last)
	}
}
