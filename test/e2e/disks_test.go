package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/guest"
)

// watchSizes prints the size of the guest's disks whenever it changes, writes
// behind the old end and reads it back.
const watchSizes = `
	watch() {
		old=$(cat /sys/block/$1/size)
		echo "SIZE $1 $old"
		while :; do
			new=$(cat /sys/block/$1/size)
			if [ "$new" != "$old" ]; then
				echo "SIZE $1 $new"
				echo "behind the old end" | dd of=/dev/$1 bs=512 seek="$old" count=1 conv=sync,fsync 2>/dev/null
				echo 3 >/proc/sys/vm/drop_caches
				echo "READ $1 $(dd if=/dev/$1 bs=512 skip="$old" count=1 2>/dev/null | head -1)"
				old=$new
			fi
			usleep 200000
		done
	}
	watch vda &
	watch vdb &
	# What is written meanwhile must not notice.
	work() {
		while :; do
			dd if=/dev/zero of=$1 bs=64k count=8 conv=notrunc,fsync 2>/dev/null || echo "WRITE-FAILED $1"
		done
	}
	work /var/work &
	work /dev/vdb &
`

// TestDisks: the owner grows disks of a running VM and of one that is stopped;
// the operator limits them and sees what they do. One boot, and one more.
func TestDisks(t *testing.T) {
	w := configured(t, "[disks]\nvirtio = \"vhost-user\"\n")
	u := w.user("alice")
	if err := u.tenant.Write("data", make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	u.run(exitDone, append([]string{"disk", "encrypt", "data", "data.luks", "--format", "raw", "--passphrase-file", "passphrase"}, cheap...)...)
	plain := image(t, guest.Options{Script: watchSizes})
	info, err := os.Stat(plain)
	if err != nil {
		t.Fatal(err)
	}
	u.disk(plain, "root.luks")
	u.create("web1", "root.luks", "--disk", "data.luks,name=data")
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "SIZE vda "+sectors(info.Size()))
	u.await("web1", "SIZE vdb 8192")
	u.await("web1", "tick 1")

	// The disk that it boots from, and the other one, while it runs.
	u.says(exitDone, "the guest: told", "disk", "grow", "web1", "disk0", "+8MiB")
	u.await("web1", "SIZE vda "+sectors(info.Size()+8<<20))
	u.await("web1", "READ vda behind the old end")
	u.says(exitDone, "from 4194304 to 6291456 bytes; the guest: told", "disk", "grow", "web1", "data", "6MiB")
	u.await("web1", "SIZE vdb 12288")
	u.await("web1", "READ vdb behind the old end")
	u.says(exitError+1, "cannot shrink", "disk", "grow", "web1", "data", "4MiB")

	// Limits need no permission, are the owner's to see, and survive the keeper.
	w.operator(exitDone, "500", "vm", "limit", "web1", "--disk", "data", "--iops", "500", "--bytes", "50MiB", "--burst", "2")
	w.operator(exitError+1, "at least 100", "vm", "limit", "web1", "--disk", "data", "--iops", "5")
	u.says(exitDone, "limit of disk data: 500 requests/s, 52428800 bytes/s, burst 2 s (unverified", "vm", "show", "web1")
	u.audit("web1", "limits of disk data changed: 500 requests/s", "disk data grew from 4194304 to 6291456 bytes")
	w.killKeeper()
	u.ticksOn("web1")
	w.operator(exitDone, "500", "vm", "limit", "web1", "--disk", "data")
	w.operator(exitDone, "write", "vm", "stats", "web1")
	// The boot disk of an emulated guest is served by NBD whatever was asked for.
	if r := u.says(exitDone, "unverified", "vm", "stats", "web1"); !regexp.MustCompile(`disk0 +nbd +write`).MatchString(r.Stdout) ||
		!regexp.MustCompile(`data +vhost-user +write`).MatchString(r.Stdout) {
		t.Error(r)
	}

	// Both front ends are connected, and the guest sleeps: so does the keeper.
	u.run(exitDone, "vm", "pause", "web1")
	w.idle(w.one("keeper", w.lab.Keepers))
	u.says(exitDone, "the guest: told", "disk", "grow", "web1", "disk0", "+1MiB")
	u.says(exitDone, "the guest: told", "disk", "grow", "web1", "data", "+1MiB")
	u.run(exitDone, "vm", "resume", "web1")
	u.await("web1", "SIZE vdb 14336")
	if log := u.await("web1", "SIZE vda "+sectors(info.Size()+9<<20)); strings.Contains(log, "FAILED") {
		t.Error("a write failed: ", log)
	}

	// A VM that does not run.
	u.says(exitDone, "powered off", "vm", "poweroff", "web1")
	u.says(exitDone, "the guest: next-start", "disk", "grow", "web1", "data", "+2MiB")
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "SIZE vdb 18432")
	if log := u.await("web1", "tick 1"); !strings.Contains(log, "SIZE vda "+sectors(info.Size()+9<<20)) {
		t.Error("the boot disk is short again: ", log)
	}
	w.operator(exitDone, "no limit", "vm", "limit", "web1", "--disk", "data")
	u.run(exitDone, "vm", "poweroff", "web1")
}

func sectors(bytes int64) string { return strconv.FormatInt(bytes/512, 10) }

// killKeeper kills the one keeper there is, and waits for the next.
func (w *world) killKeeper() {
	w.Helper()
	keeper := w.one("keeper", w.lab.Keepers)
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		w.Fatal(err)
	}
	if !eventually(20*time.Second, func() bool { k := w.lab.Keepers(); return len(k) == 1 && k[0] != keeper }) {
		w.Fatal("no new keeper")
	}
}

// idle waits for a time in which no thread of a process runs. Go's runtime tidies
// up for some seconds after there was work; what polls never gets there.
func (w *world) idle(pid int) {
	w.Helper()
	count := func() map[string]int {
		n := map[string]int{}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if m := regexp.MustCompile(`(?ms)^Name:\s+([^\n]*).*^voluntary_ctxt_switches:\s+(\d+)`).FindSubmatch(b); m != nil {
				n[filepath.Base(filepath.Dir(task))+" "+string(m[1])], _ = strconv.Atoi(string(m[2]))
			}
		}
		return n
	}
	var seen []string
	for range 10 {
		before := count()
		time.Sleep(6 * time.Second) // longer than the kernel's threads of io_uring sleep
		woken := ""
		for thread, n := range count() {
			if n != before[thread] {
				woken += fmt.Sprintf("%s: %d; ", thread, n-before[thread])
			}
		}
		if woken == "" && len(before) > 0 {
			w.Logf("threads of the keeper that woke up, in 6 s each: %q, then none", seen)
			return
		}
		seen = append(seen, woken)
	}
	w.Errorf("threads of the keeper that woke up, in 6 s each: %q", seen)
}
