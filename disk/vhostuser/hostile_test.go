package vhostuser_test

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// TestHostile attacks a server in every way that test/vhostfront knows, through a
// real socket. Beside it, another disk of the same process is in use all the
// time. In the end nothing is left behind.
func TestHostile(t *testing.T) {
	before := resources(t)
	cases := vhostfront.Hostile()
	if len(cases) < 400 {
		t.Fatalf("%d cases only", len(cases))
	}
	func() {
		s := &vhostuser.Server{Device: memoryDisk(t), Queues: 2}
		path := socketPath(t)
		stop := serveAt(t, s, path)
		defer stop()
		calm := &vhostuser.Server{Device: memoryDisk(t)}
		calmPath := socketPath(t)
		stopCalm := serveAt(t, calm, calmPath)
		defer stopCalm()
		other, err := vhostfront.Dial(calmPath, vhostfront.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		names := map[string]bool{}
		for _, c := range cases {
			if names[c.Name] {
				t.Errorf("two cases are named %q", c.Name)
			}
			names[c.Name] = true
			t.Run(c.Name, func(t *testing.T) {
				if err := c.Run(path); err != nil {
					t.Error(err)
				}
				if err := other.Works(other.Queues[0]); err != nil {
					t.Errorf("another disk: %v", err)
				}
			})
		}
		if got := calm.Stats(); got.Accepted != 1 || got.Broken != 0 {
			t.Errorf("the other disk: %+v", got)
		}
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after := resources(t)
		if after.goroutines <= before.goroutines && after.descriptors <= before.descriptors && after.mappings <= before.mappings {
			return
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("before %+v, after %+v\n%s", before, after, buf[:runtime.Stack(buf, true)])
		}
	}
}

type usage struct{ goroutines, descriptors, mappings int }

// resources counts what this process holds; of mappings those that a front end
// shares or keeps.
func resources(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(fds), strings.Count(string(maps), "memfd:")}
}
