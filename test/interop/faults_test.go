package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/nbd"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/guest"
)

// What is wrong with each MiB of the storage.
const (
	fine = iota
	broken
	full
	short
	slow
	once // the first request fails
	lost // after a write here, one flush fails
	regions
)

// looks has the guest use every part of a disk and say how that went.
const looks = findDisk + `
	head -c 65536 /dev/urandom >/run/block
	write() { dd if=/run/block of=$dev bs=64k seek=$1 count=1 oflag=direct conv=notrunc 2>/dev/null; }
	flushed() { dd if=/run/block of=$dev bs=64k seek=$1 count=1 conv=notrunc,fsync 2>/dev/null; }
	read() { dd if=$dev of=/run/got bs=64k skip=$1 count=1 iflag=direct 2>/dev/null && cmp -s /run/block /run/got; }
	try() { if "$@"; then echo "SAW $name $* good"; else echo "SAW $name $* error"; fi; }
	for name in nbd vhost; do
		dev=$(disk $name)
		for part in 0 16 32 48 64 80 80; do
			try write $part
			try read $part
		done
		try flushed 96
		try flushed 96
	done
	poweroff -f
`

// TestGuestSeesFaults: storage's errors reach the guest as errors of the request
// that met them, by either front end; short and slow ones do not. Afterwards the disk
// goes on. QEMU is told to report errors, as UVBond does.
func TestGuestSeesFaults(t *testing.T) {
	dir, err := os.MkdirTemp("", "uvf") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	byNBD, byVhost := filepath.Join(dir, "nbd"), filepath.Join(dir, "vhost")
	serve(t, byNBD, (&nbd.Server{Exports: []nbd.Export{{Device: faulty(t)}}}).Serve)
	serve(t, byVhost, (&vhostuser.Server{Device: faulty(t), Serial: "vhost", Queues: 1}).Serve)
	out := runGuest(t, guest.Options{Script: looks}, []string{
		"-blockdev", "driver=nbd,node-name=nbd,server.type=unix,server.path=" + byNBD,
		"-device", "virtio-blk-pci,drive=nbd,serial=nbd,werror=report,rerror=report",
		"-chardev", "socket,id=vhost,path=" + byVhost, "-device", "vhost-user-blk-pci,chardev=vhost,num-queues=1,config-wce=on",
	})
	for _, name := range []string{"nbd", "vhost"} {
		at := 0
		for _, want := range []string{
			"write 0 good", "read 0 good",
			"write 16 error", "read 16 error",
			"write 32 error", "read 32 error", // nothing was written, so something else is read
			"write 48 good", "read 48 good",
			"write 64 good", "read 64 good",
			"write 80 error", "read 80 error", "write 80 good", "read 80 good",
			"flushed 96 error", "flushed 96 good",
		} {
			want = "SAW " + name + " " + want
			if i := strings.Index(out[at:], want); i < 0 {
				t.Errorf("no %q where it should be", want)
			} else {
				at += i
			}
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// faulty is a disk on storage with a fault in every MiB but the first.
func faulty(t *testing.T) *disk.Device {
	t.Helper()
	const mib = 1 << 20
	b := disktest.New(regions * mib)
	var slept, failed, lose atomic.Int64
	b.Fail = func(c disktest.Call) disktest.Fault {
		if c.Op == disktest.Sync {
			if lose.CompareAndSwap(1, 2) {
				return disktest.Fault{Err: unix.EIO}
			}
			return disktest.None
		}
		switch c.Off / mib {
		case broken:
			return disktest.Fault{Err: unix.EIO}
		case full:
			if c.Op == disktest.Write {
				return disktest.Fault{Err: unix.ENOSPC}
			}
		case short:
			if c.Len > 4096 {
				return disktest.Fault{Short: c.Len / 2}
			}
		case slow:
			if slept.Add(1) <= 4 {
				time.Sleep(time.Second)
			}
		case once:
			if failed.Add(1) <= 2 {
				return disktest.Fault{Err: unix.EIO}
			}
		case lost:
			if c.Op == disktest.Write {
				lose.CompareAndSwap(0, 1)
			}
		}
		return disktest.None
	}
	d, err := disk.NewDevice(b, disk.Params{Key: key(), SectorSize: 4096, Length: regions * mib})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func serve(t *testing.T, path string, f func(context.Context, net.Listener) error) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(fmt.Errorf("%s: %w", path, err))
		}
	})
}
