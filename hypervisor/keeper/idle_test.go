package keeper

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// statusFields sums up a number over status files of /proc.
func statusFields(t *testing.T, pattern, field string) (n int) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	re := regexp.MustCompile(`(?m)^` + field + `:\s+(\d+)`)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		if m := re.FindSubmatch(b); m != nil {
			v, _ := strconv.Atoi(string(m[1]))
			n += v
		}
	}
	return n
}

// wakeups counts how often the threads of a process went to sleep so far.
func wakeups(t *testing.T, pid int) int {
	t.Helper()
	return statusFields(t, fmt.Sprintf("/proc/%d/task/*/status", pid), "voluntary_ctxt_switches")
}

// stayConnected starts a client that stays when it has done some I/O.
func stayConnected(t *testing.T, p *Process) {
	t.Helper()
	cmd := as(exec.Command("stdbuf", "-oL", tool(t, "qemu-io", "qemu-utils"), "-f", "raw", nbdURI(p)), qemuUID)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	fmt.Fprintln(in, "write -P 1 0 1M")
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.Contains(s.Text(), "wrote 1048576/1048576") {
			go io.Copy(io.Discard, out)
			return
		}
	}
	t.Fatal("the client ended")
}

// asReleased has the keeper run as it is released: the race detector, which this
// program may have, takes memory and time.
func (x *fixture) asReleased(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the keeper has another uid
		t.Fatal(err)
	}
	x.Self, x.Args = buildKeeper(t, dir), []string{}
}

// TestIdle: a keeper whose client is silent does not run at all. Go's runtime tidies
// up for some seconds after there was work, and collects garbage every two minutes;
// so there is a time without a single wake-up, and something that polls has none.
func TestIdle(t *testing.T) {
	x := newFixture(t)
	x.asReleased(t)
	p := x.start(t)
	allowAny(t, p)
	stayConnected(t, p)
	var seen []int
	for range 30 {
		before := wakeups(t, p.PID())
		time.Sleep(2 * time.Second)
		n := wakeups(t, p.PID()) - before
		if n == 0 {
			return
		}
		seen = append(seen, n)
	}
	t.Errorf("wake-ups in 2 s each: %v", seen)
}

// TestMemory: a disk at depth 128 takes less than 8 MiB.
func TestMemory(t *testing.T) {
	x := newFixture(t)
	x.asReleased(t)
	p := x.start(t)
	allowAny(t, p)
	anon := func() int { return statusFields(t, fmt.Sprintf("/proc/%d/status", p.PID()), "RssAnon") }
	before := anon()
	cmd := as(exec.Command(tool(t, "fio", "fio"), "--name=x", "--ioengine=nbd", "--uri="+nbdURI(p), "--rw=randrw", "--bs=64k", "--iodepth=128",
		"--size=8m", "--time_based", "--runtime=3", "--output-format=terse"), qemuUID)
	done := make(chan string)
	go func() {
		b, err := cmd.CombinedOutput()
		if err != nil {
			done <- fmt.Sprintf("%v: %s", err, b)
		}
		close(done)
	}()
	most := 0
	for {
		select {
		case problem := <-done:
			if problem != "" {
				t.Fatal(problem)
			}
			t.Logf("%d KiB before, %d KiB at most", before, most)
			if most-before >= 8<<10 {
				t.Errorf("%d KiB for one disk", most-before)
			}
			if s, err := p.Stats(t.Context()); err != nil || s.Disks[0].NBD.Reads < 128 {
				t.Errorf("there was no load: %+v, %v", s, err)
			}
			return
		case <-time.After(20 * time.Millisecond):
			most = max(most, anon())
		}
	}
}
