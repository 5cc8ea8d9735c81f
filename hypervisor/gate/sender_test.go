package gate

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
)

// TestAliveUnderSignals: signals such as those of Go's scheduler do not make the
// opener of a session look dead.
func TestAliveUnderSignals(t *testing.T) {
	s, err := identify(&qmp.Cred{PID: int32(os.Getpid()), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() {
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	}()
	for range 1_000_000 {
		if !s.alive() {
			t.Error("a signal made a living process dead")
			break
		}
	}
	over.Store(true)
	<-done
}
