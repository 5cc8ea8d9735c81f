package vhostuser_test

import (
	"testing"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/disktest/contract"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// through is a disk without a cache that can be flushed: every write is forced.
type through struct{ *vhostfront.Disk }

func (d through) WriteForced(p []byte, off int64) error {
	_, err := d.WriteAt(p, off)
	return err
}

func (d through) WriteZeroesForced(off, n int64) error { return d.WriteZeroes(off, n) }

// TestContract: what the device promises holds through this front end.
func TestContract(t *testing.T) {
	backs := map[string]contract.Back{
		"memory": func(_ testing.TB, size int64) disk.Backend { return disktest.New(size) },
	}
	front := func(without uint64) contract.Front {
		return contract.Front{Unit: 512, Serve: func(t testing.TB, d *disk.Device) contract.Disk {
			path := serve(t, &vhostuser.Server{Device: d, Queues: 2})
			c := newDisk(t, dial(t, path, vhostfront.Options{Queues: 2, Without: without}))
			if without != 0 {
				return through{c}
			}
			return c
		}}
	}
	t.Run("write back", func(t *testing.T) { contract.Run(t, front(0), backs) })
	t.Run("write through", func(t *testing.T) { contract.Run(t, front(vhostfront.BlkFlush), backs) })
}
