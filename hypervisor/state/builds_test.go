package state

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/uvbond/uvbond/bond"
)

// TestBuilds: what was recorded is there after the daemon was started again, for
// each disk of each bond, and goes with the bond.
func TestBuilds(t *testing.T) {
	s, dir := testStore(t, Options{})
	vm, other := addBond(t, s).Bond.VM(), addBond(t, s).Bond.VM()
	if r, err := s.Build(vm, "root"); r != nil || err != nil {
		t.Errorf("before: %+v, %v", r, err)
	}
	want := &BuildRecord{Phase: BuildWrite, Done: 3 << 20, Hash: []byte("state"), Piece: 1 << 20, Prefixes: bytes.Repeat([]byte{7}, 32*16384), Wrong: [32]byte{1}}
	if err := s.PutBuild(vm, "root", want, Entry{Kind: "build", Who: "owner", Text: "began"}); err != nil {
		t.Fatal(err)
	}
	for _, place := range []struct {
		vm   bond.VMID
		disk string
	}{{vm, "data"}, {vm, "roo"}, {vm, "roots"}, {other, "root"}} {
		if err := s.PutBuild(place.vm, place.disk, &BuildRecord{Phase: BuildDone}); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	s = reopen(t, dir, Options{})
	if got, err := s.Build(vm, "root"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after: %+v, %v", got, err)
	}
	if _, err := s.DeleteBond(vm); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{"root", "data", "roo", "roots"} {
		if r, err := s.Build(vm, disk); r != nil || err != nil {
			t.Errorf("%s stays with a deleted bond: %+v, %v", disk, r, err)
		}
	}
	if r, err := s.Build(other, "root"); err != nil || r == nil || r.Phase != BuildDone {
		t.Errorf("another bond's: %+v, %v", r, err)
	}
	if err := s.PutBuild(vm, "root", want); !errors.Is(err, ErrUnknownVM) {
		t.Errorf("for a deleted bond: %v", err)
	}
}
