package tenant

import (
	"testing"
	"time"
)

// TestFollowIsGentle: a guest that says nothing for an hour costs no more than a
// session every four seconds, and one that talks is heard every second.
func TestFollowIsGentle(t *testing.T) {
	var pause, total time.Duration
	asked := 0
	for total < time.Hour {
		pause = nextPause(pause, false)
		total += pause
		asked++
	}
	if most := int(time.Hour/followLast) + 5; asked > most || pause != followLast {
		t.Errorf("asked %d times in a silent hour, at most %d are due; the pause is %s", asked, most, pause)
	}
	if pause = nextPause(pause, true); pause != followFirst {
		t.Errorf("after output the pause is %s, want %s", pause, followFirst)
	}
}
