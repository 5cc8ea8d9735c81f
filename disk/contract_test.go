package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/disktest/contract"
)

// file returns a back end on a new file.
func file(e disk.Engine, flags int) contract.Back {
	return func(t testing.TB, size int64) disk.Backend {
		t.Helper()
		dir := t.TempDir()
		if flags == unix.O_DIRECT {
			dir = disktest.DirectDir(t)
		}
		f, err := os.OpenFile(filepath.Join(dir, "disk"), os.O_RDWR|os.O_CREATE|flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		b, err := disk.OpenFile(f, e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

var backs = map[string]contract.Back{
	"memory":  func(_ testing.TB, size int64) disk.Backend { return disktest.New(size) },
	"waiting": file(disk.Waiting, 0),
	"threads": file(disk.Threads, 0),
	"ring":    file(disk.Ring, 0),
	"direct":  file(disk.Ring, unix.O_DIRECT),
}

func TestContractOfDevice(t *testing.T) { contract.Run(t, contract.Device, backs) }

func TestContractOfQueue(t *testing.T) { contract.Run(t, contract.Queue, backs) }
