package nbdclient

import (
	"testing"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest/contract"
	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
)

// TestContract: what the device promises holds over storage that speaks NBD.
func TestContract(t *testing.T) {
	over := func(start func(t testing.TB, size int64) *nbdtest.Server) contract.Back {
		return func(t testing.TB, size int64) disk.Backend {
			c, err := Open(t.Context(), configOf(start(t, size)))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	contract.RunOver(t, contract.Queue, map[string]contract.Back{
		"nbdkit": over(func(t testing.TB, size int64) *nbdtest.Server {
			return nbdtest.Nbdkit(t, "file", nbdtest.Blank(t, size))
		}),
		"slow nbdkit": over(func(t testing.TB, size int64) *nbdtest.Server {
			return nbdtest.Nbdkit(t, "--filter=delay", "file", nbdtest.Blank(t, size), "rdelay=1ms", "wdelay=1ms")
		}),
		"qemu-nbd": over(func(t testing.TB, size int64) *nbdtest.Server {
			return nbdtest.Start(t, "qemu-utils", "qemu-nbd", "--persistent", "--socket=SOCKET", "--format=raw", "--shared=8", "--discard=unmap", nbdtest.Blank(t, size))
		}),
	})
}
