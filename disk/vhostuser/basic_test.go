package vhostuser_test

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// TestDisk does everything that a disk does, over the real socket, with and
// without what can be negotiated.
func TestDisk(t *testing.T) {
	for name, o := range map[string]vhostfront.Options{
		"all":         {},
		"no events":   {Without: vhostfront.RingEventIdx},
		"no indirect": {Without: vhostfront.RingIndirect},
		"no flush":    {Without: vhostfront.BlkFlush},
		"old table":   {MemTable: true},
		"no inflight": {WithoutProtocol: vhostfront.ProtoInflightShmFD},
		"no ack":      {WithoutProtocol: vhostfront.ProtoReplyAck},
		"two queues":  {Queues: 2},
		"no seals":    {NoSeal: true},
	} {
		for _, poll := range []time.Duration{0, vhostuser.DefaultPoll} {
			t.Run(name, func(t *testing.T) {
				s := &vhostuser.Server{Device: memoryDisk(t), Serial: "a serial number", Queues: 2, Poll: poll}
				checkDisk(t, newDisk(t, dial(t, serve(t, s), o)))
			})
		}
	}
}

func checkDisk(t *testing.T, d *vhostfront.Disk) {
	t.Helper()
	if d.Size() != testSize {
		t.Errorf("size %d", d.Size())
	}
	if id, err := d.ID(); err != nil || strings.TrimRight(id, "\x00") != "a serial number" {
		t.Errorf("serial number %q, %v", id, err)
	}
	p := make([]byte, 300<<10)
	for i := range p {
		p[i] = byte(i / 512 * 7)
	}
	const off = 12345 * 512
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
	if err := d.WriteZeroes(off+512, 1024); err != nil {
		t.Error(err)
	}
	clear(p[512:1536])
	got := make([]byte, len(p))
	if n, err := d.ReadAt(got, off); n != len(p) || err != nil || !bytes.Equal(got, p) {
		t.Fatalf("read: %d, %v, equal %v", n, err, bytes.Equal(got, p))
	}
	if err := d.Trim(off, 64<<10); err != nil {
		t.Error(err)
	}
	for _, off := range []int64{testSize, testSize - 512, 1 << 40, 1<<62 + 512} {
		if _, err := d.ReadAt(got[:1024], off); !errors.Is(err, unix.EIO) {
			t.Errorf("reading beyond the end, at %d: %v", off, err)
		}
		if err := d.WriteZeroes(off, 1024); !errors.Is(err, unix.EIO) {
			t.Errorf("zeroing beyond the end, at %d: %v", off, err)
		}
	}
	if _, err := d.ReadAt(got[:1024], testSize-1024); err != nil {
		t.Error(err)
	}
}

func TestReadOnly(t *testing.T) {
	dev := testDevice(t, disktest.New(testSize), disk.Params{ReadOnly: true})
	f := dial(t, serve(t, &vhostuser.Server{Device: dev}), vhostfront.Options{})
	if f.Features&vhostfront.BlkRO == 0 {
		t.Error("RO is not offered")
	}
	d := newDisk(t, f)
	p := make([]byte, 4096)
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Error(err)
	}
	if _, err := d.WriteAt(p, 0); !errors.Is(err, unix.EIO) {
		t.Errorf("write: %v", err)
	}
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
}

// TestErrors: what storage cannot do is an I/O error, and the queue goes on.
func TestErrors(t *testing.T) {
	b := disktest.New(testSize)
	var bad atomic.Bool
	b.Fail = func(c disktest.Call) disktest.Fault {
		if bad.Load() {
			return disktest.Fault{Err: unix.ENOSPC, Short: 0}
		}
		return disktest.None
	}
	d := newDisk(t, dial(t, serve(t, &vhostuser.Server{Device: testDevice(t, b, disk.Params{Discard: true})}), vhostfront.Options{}))
	p := make([]byte, 4096)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	bad.Store(true)
	_, re := d.ReadAt(p, 0)
	_, we := d.WriteAt(p, 0)
	for name, err := range map[string]error{"read": re, "write": we, "flush": d.Flush(), "zeroes": d.WriteZeroes(0, 4096), "trim": d.Trim(0, 4096)} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad.Store(false)
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Error(err)
	}
}

// TestLoad checks what many requests at a time read, on several queues.
func TestLoad(t *testing.T) {
	for _, poll := range []time.Duration{0, vhostuser.DefaultPoll} {
		s := &vhostuser.Server{Device: memoryDisk(t), Queues: 2, Poll: poll}
		f := dial(t, serve(t, s), vhostfront.Options{Queues: 2})
		r, err := f.Run(vhostfront.Load{WritePart: 50, Verify: true, Flush: 50, Depth: 32, Duration: 300 * time.Millisecond, Seed: 7})
		if err != nil || r.Errors > 0 || r.Requests == 0 {
			t.Errorf("%d errors of %d, %v", r.Errors, r.Requests, err)
		}
		if got := s.Stats(); got.Requests != r.Requests || got.Accepted != 1 || got.Broken != 0 {
			t.Errorf("%+v for %d requests", got, r.Requests)
		}
	}
}
