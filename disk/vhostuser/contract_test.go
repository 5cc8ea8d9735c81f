package vhostuser_test

import (
	"testing"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/disktest/contract"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// TestContract: what the device promises holds through this front end.
func TestContract(t *testing.T) {
	contract.Run(t, contract.Front{Unit: 512, Serve: func(t testing.TB, d *disk.Device) contract.Disk {
		path := serve(t, &vhostuser.Server{Device: d, Queues: 2})
		return newDisk(t, dial(t, path, vhostfront.Options{Queues: 2}))
	}}, map[string]contract.Back{
		"memory": func(_ testing.TB, size int64) disk.Backend { return disktest.New(size) },
	})
}
