package hypervisor_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

const (
	hundred   = 100
	mostRSS   = 200 << 20
	wanted    = 5 * time.Millisecond
	tolerated = 25 * time.Millisecond // on a machine that does other things as well
)

// TestHundredVMs launches 100 VMs, real but for QEMU, whose place the stub takes:
// the daemon stays small and a status under a ticket quick.
func TestHundredVMs(t *testing.T) {
	stub := machinetest.CopyStub(t)
	d := newDaemon(t, fmt.Sprintf("qemu = %q\nmax_vms = 128", stub))
	d.start()
	defer killVMs(d, stub)
	began := time.Now()
	owners := launchMany(d, hundred)
	t.Logf("%d VMs registered and launched in %v", hundred, time.Since(began).Round(time.Millisecond))

	times := make([]time.Duration, 0, 3*hundred)
	err := d.session(func(c *qmp.Client) error {
		for range 3 {
			for _, o := range owners {
				sealed, err := ticket(o, "status", nil)
				if err != nil {
					return err
				}
				at := time.Now()
				r, err := status(c, o, sealed)
				if err != nil {
					return err
				}
				times = append(times, time.Since(at))
				if r.State != qmp.StateRunning {
					return fmt.Errorf("VM %s is %s", o.VM(), r.State)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(times)
	median, p95 := times[len(times)/2], times[len(times)*95/100]
	rss := residentBytes(t, d.cmd.Process.Pid)
	t.Logf("status under a ticket, open to receipt, as its client sees it: median %v, p95 %v; daemon: %d MiB resident", median, p95, rss>>20)
	if rss > mostRSS {
		t.Errorf("the daemon has %d MiB, most is %d", rss>>20, mostRSS>>20)
	}
	if median > tolerated {
		t.Errorf("a status takes %v, wanted are %v", median, wanted)
	}
}

// launchMany registers n VMs and starts them, a few at a time. They share one
// ciphertext file: nobody writes to it.
func launchMany(d *daemon, n int) []*bond.Bond {
	d.t.Helper()
	path, disk := machinetest.NewDisk(d.t, d.t.TempDir(), "root")
	owners := make([]*bond.Bond, n)
	sealed := make([][]byte, n)
	for i := range n {
		sealed[i], owners[i] = machinetest.Register(d.t, d.host, "", disk)
	}
	f := machinetest.Open(d.t, path)
	defer f.Close()
	work := make(chan int)
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			errs <- d.session(func(c *qmp.Client) error {
				var first error
				for i := range work {
					if first != nil {
						continue
					}
					first = c.Execute(d.t.Context(), qmp.CmdRegister, qmp.RegisterArgs{Registration: sealed[i]}, nil)
					if first == nil {
						first = start(c, owners[i], f)
					}
				}
				return first
			})
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			d.t.Fatalf("%v\n%s", err, d.logged())
		}
	}
	return owners
}

func residentBytes(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// killVMs ends the daemon and then its VMs, which would run on without it: all
// processes of the program under test and of the stub. A process in a mount
// namespace of its own may show its program below another root.
func killVMs(d *daemon, stub string) {
	d.stop()
	list, _ := os.ReadDir("/proc")
	for _, e := range list {
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err != nil || !strings.Contains(exe, stub) && !strings.Contains(exe, program(d.t)) {
			continue
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// BenchmarkStatus is one status under a ticket, from open to the receipt.
func BenchmarkStatus(b *testing.B) {
	stub := machinetest.CopyStub(b)
	d := newDaemon(b, fmt.Sprintf("qemu = %q", stub))
	d.start()
	defer killVMs(d, stub)
	owner := launchMany(d, 1)[0]
	tickets := make([][]byte, 0, b.N)
	for range b.N {
		sealed, err := ticket(owner, "status", nil)
		if err != nil {
			b.Fatal(err)
		}
		tickets = append(tickets, sealed)
	}
	err := d.session(func(c *qmp.Client) error {
		b.ResetTimer()
		for _, sealed := range tickets {
			if _, err := status(c, owner, sealed); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
