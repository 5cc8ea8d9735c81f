// Package machinetest has what tests of the hypervisor need in place of the
// expensive parts: a program that speaks QMP as QEMU does but runs no guest,
// and LUKS2 disks with the registration that goes with them. Only tests import it.
package machinetest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stubName is how a copy of the test binary knows that it is to be QEMU.
const stubName = "qemu-stub"

// Commands of the stub beside QEMU's own.
const (
	Crash    = "x-crash"    // ends by SIGABRT without an answer
	PowerOff = "x-poweroff" // as if the guest had switched itself off
	Mute     = "x-mute"     // never answers again
	Resized  = "x-resized"  // answers with the commands that resize disks, so far
)

// IsStub tells TestMain that this process is to be QEMU: it calls StubMain then.
func IsStub() bool { return filepath.Base(os.Args[0]) == stubName }

// CopyStub copies the running test binary to a place from where it is QEMU.
func CopyStub(t testing.TB) string {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(t.TempDir(), stubName)
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// stub is the state of the program.
type stub struct {
	mu    sync.Mutex
	state string
	mute  bool

	resized []string
}

// StubMain serves the inherited monitor until it is told to end.
func StubMain() int {
	f, err := monitor(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		return 1
	}
	l, err := net.FileListener(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		return 1
	}
	s := &stub{state: "prelaunch"}
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		s.serve(c) // one client at a time, as QEMU
		c.Close()
	}
}

func monitor(args []string) (*os.File, error) {
	for _, a := range args {
		if !strings.HasPrefix(a, "socket,id=monitor,") {
			continue
		}
		for o := range strings.SplitSeq(a, ",") {
			if fd, ok := strings.CutPrefix(o, "fd="); ok {
				n, err := strconv.Atoi(fd)
				return os.NewFile(uintptr(n), "monitor"), err
			}
		}
	}
	return nil, fmt.Errorf("no monitor among %q", args)
}

func (s *stub) serve(c net.Conn) {
	fmt.Fprintln(c, `{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0},"package":"stub"},"capabilities":[]}}`)
	for lines := bufio.NewScanner(c); lines.Scan(); {
		var req struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &req) != nil {
			return
		}
		event, answer := s.command(req.Execute)
		if answer == "" {
			continue
		}
		fmt.Fprintf(c, `{%s,"id":%s}`+"\n", answer, req.ID)
		if event != "" {
			now := time.Now()
			fmt.Fprintf(c, `{%s,"timestamp":{"seconds":%d,"microseconds":0}}`+"\n", event, now.Unix())
		}
		if req.Execute == "quit" {
			os.Exit(0)
		}
	}
}

func (s *stub) command(name string) (event, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const done = `"return":{}`
	if s.mute {
		return "", ""
	}
	switch name {
	case "qmp_capabilities":
		return "", done
	case "query-status":
		return "", fmt.Sprintf(`"return":{"status":%q,"running":%t}`, s.state, s.state == "running")
	case "stop":
		s.state = "paused"
		return `"event":"STOP"`, done
	case "cont":
		s.state = "running"
		return `"event":"RESUME"`, done
	case "system_reset":
		return `"event":"RESET","data":{"guest":false}`, done
	case "system_powerdown", PowerOff:
		s.state = "shutdown"
		return `"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}`, done
	case "human-monitor-command", "block_resize":
		s.resized = append(s.resized, name)
		return "", `"return":""`
	case Resized:
		return "", fmt.Sprintf(`"return":%q`, strings.Join(s.resized, " "))
	case "query-chardev":
		return "", `"return":[{"label":"console","filename":"unix:","frontend-open":true}]`
	case "query-vnc-servers":
		return "", `"return":[{"id":"default","server":[],"clients":[],"auth":"none"}]`
	case "getfd", "add_client":
		return "", done
	case "quit":
		return `"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"}`, done
	case Mute:
		s.mute = true
		return "", done
	case Crash:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return "", fmt.Sprintf(`"error":{"class":"CommandNotFound","desc":"The command %s has not been found"}`, name)
}
