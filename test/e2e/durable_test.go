package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/guest"
)

// verifies has fio write a file on the root disk, which NBD serves, and a disk
// that is served by vhost-user, each block with a checksum and its place in it, and
// read all of it back past the guest's cache, again and again.
const verifies = `
	verify() { # name file
		n=0
		while :; do
			n=$((n + 1))
			fio --name=$1 --filename=$2 --size=6m --rw=randrw --rwmixread=30 --bsrange=512-32k --ioengine=libaio --iodepth=16 --direct=1 \
				--fsync=64 --randseed=$n --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --output=/run/$1.log
			code=$?
			if [ $code = 0 ]; then echo "VERIFY $1 $n good"; else echo "VERIFY $1 $n BAD $code"; cat /run/$1.log; fi
		done
	}
	dd if=/dev/zero of=/fio bs=64k count=96 conv=fsync 2>/dev/null
	verify nbd /fio &
	verify vhost /dev/vdb &
	while :; do
		echo "DISK-ERRORS $(dmesg | grep -ciE 'i/o error|ext4-fs error|aborting journal|remounting')"
		sleep 2
	done
`

// soak is how long a test goes on: as short as it can be, or what UVBOND_SOAK says.
func soak(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("UVBOND_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("UVBOND_SOAK: %v", err)
	}
	return d
}

// outage waits for as long as storage shall be gone: short, or ten minutes of a soak.
func outage(t *testing.T, short time.Duration) {
	t.Helper()
	if soak(t) == 0 {
		time.Sleep(short)
		return
	}
	for left := 10; left > 0; left-- {
		fmt.Fprintf(os.Stderr, "soak: no storage for another %d minutes\n", left)
		time.Sleep(time.Minute)
	}
}

// TestDurable kills the keeper with SIGKILL, at any moment, while fio in the guest
// writes and verifies through both front ends; then the storage is gone for a
// while. The guest may notice pauses, and nothing else.
func TestDurable(t *testing.T) {
	t.Parallel()
	w := configured(t, "[disks]\nvirtio = \"vhost-user\"\n")
	u := w.user("alice")
	if err := u.tenant.Write("data", make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	u.run(exitDone, append([]string{"disk", "encrypt", "data", "data.luks", "--format", "raw", "--passphrase-file", "passphrase"}, cheap...)...)
	u.disk(image(t, guest.Options{Fio: true, Script: verifies}), "root.luks")
	u.create("web1", "root.luks", "--disk", "data.luks,name=data")
	u.run(exitDone, "vm", "start", "web1")
	u.verified(1)
	stats := w.operator(exitDone, "write", "vm", "stats", "web1").Stdout
	if !regexp.MustCompile(`data +vhost-user +write`).MatchString(stats) {
		t.Fatalf("the data disk is not served by vhost-user:\n%s", stats)
	}

	kills, long := 3, soak(t)
	end := time.Now().Add(long)
	for n := 0; n < kills || time.Now().Before(end); n++ {
		time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second))))
		w.killKeeper()
		u.verified(1)
		if long > 0 {
			fmt.Fprintf(os.Stderr, "soak: keeper killed %d times, verified rounds %v, %s to go\n", n+1, u.rounds(), time.Until(end).Round(time.Second))
		}
	}
	u.storageGone()
	u.verified(2)
	u.run(exitDone, "vm", "poweroff", "web1")
}

// storageGone leaves the guest without anybody who has the ciphertext for a while.
func (u *user) storageGone() {
	u.Helper()
	keeper := u.one("keeper", u.lab.Keepers)
	u.lab.KillHypervisor()
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		u.Fatal(err)
	}
	outage(u.T, 3*time.Second)
	u.restart()
}

var (
	goodRound  = regexp.MustCompile(`VERIFY (nbd|vhost) \d+ good`)
	diskErrors = regexp.MustCompile(`DISK-ERRORS (\d+)`)
)

// rounds counts the rounds of fio that were verified so far, by front end. One
// that was not, or an error in the guest's kernel, ends the test.
func (u *user) rounds() map[string]int {
	u.Helper()
	log := u.run(exitDone, "vm", "log", "web1").Stdout
	for _, m := range diskErrors.FindAllStringSubmatch(log, -1) {
		if n, _ := strconv.Atoi(m[1]); n > 0 {
			u.Fatalf("the guest's kernel saw errors of its disks:\n%s", log)
		}
	}
	if strings.Contains(log, "BAD") {
		u.Fatalf("fio in the guest found a fault:\n%s", log)
	}
	n := map[string]int{}
	for _, m := range goodRound.FindAllStringSubmatch(log, -1) {
		n[m[1]]++
	}
	return n
}

// verified waits until fio has verified so many more rounds through each front end,
// after the one that was under way.
func (u *user) verified(more int) {
	u.Helper()
	before := u.rounds()
	if !eventually(bootLimit, func() bool {
		now := u.rounds()
		return now["nbd"] >= before["nbd"]+more && now["vhost"] >= before["vhost"]+more
	}) {
		u.Fatalf("no more verified rounds than %v: %s", u.rounds(), u.run(exitDone, "vm", "log", "web1"))
	}
}
