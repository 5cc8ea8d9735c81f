package keeper

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVhostUser: a disk that is served by vhost-user has a socket of its own, and who
// may connect is decided as for NBD: by uid and process.
func TestVhostUser(t *testing.T) {
	x := newFixture(t)
	x.Config.Disks[0].VhostQueues = 2
	p := x.start(t)
	if filepath.Base(p.DiskPath("root")) != "root.vhost" {
		t.Errorf("socket %s", p.DiskPath("root"))
	}
	// A client that is no front end, and leaves.
	client := func(uid uint32) error {
		cmd := as(exec.Command("/proc/self/exe", "say", p.DiskPath("root")), uid)
		cmd.Stdin = strings.NewReader("no message of vhost-user")
		return cmd.Run()
	}
	stats := func() DiskStats {
		s, err := p.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Disks[0]
	}
	if err := p.AllowPeer(t.Context(), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	_ = client(qemuUID)
	waitFor(t, "the refusal of another process", func() bool { return stats().Vhost.Refused == 1 })
	if isRoot() {
		if err := client(strangeUID); err == nil {
			t.Error("another uid could connect")
		}
	}
	if s := stats(); s.FrontEnd != FrontEndVhostUser || s.Vhost.Accepted != 0 || s.Vhost.Refused != 1 {
		t.Errorf("%+v", s)
	}
	allowAny(t, p)
	_ = client(qemuUID)
	waitFor(t, "a connection", func() bool { return stats().Vhost.Accepted == 1 })
	// The daemon finds the socket again.
	q, err := Adopt(x.Dir, p.PID(), p.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if q.DiskPath("root") != p.DiskPath("root") {
		t.Errorf("adopted as %s", q.DiskPath("root"))
	}
	for _, queues := range []int{-1, 1000} {
		x := newFixture(t)
		x.Config.Disks[0].VhostQueues = queues
		if _, err := Start(t.Context(), x.Options); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d queues", queues)) {
			t.Errorf("%d queues: %v", queues, err)
		}
	}
}
