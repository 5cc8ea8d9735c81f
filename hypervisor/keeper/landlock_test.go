package keeper

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLandlockRights: a keeper that dials may connect and nothing else; one that does
// not may neither.
func TestLandlockRights(t *testing.T) {
	const bind, connect = unix.LANDLOCK_ACCESS_NET_BIND_TCP, unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	for abi := 1; abi <= 6; abi++ {
		without, with := landlockRights(abi, false), landlockRights(abi, true)
		if abi >= 4 && (without.Handled_access_net != bind|connect || with.Handled_access_net != bind) {
			t.Errorf("ABI %d handles %#x, dialling %#x", abi, without.Handled_access_net, with.Handled_access_net)
		}
		with.Handled_access_net = without.Handled_access_net
		if with != without {
			t.Errorf("ABI %d: dialling changes more than connections: %+v, %+v", abi, with, without)
		}
	}
}
