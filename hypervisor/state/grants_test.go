package state

import (
	"errors"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/uvbond/uvbond/bond"
)

var errNoneLeft = errors.New("none left")

// twice allows two uses in an hour.
func twice(times []int64, now int64) ([]int64, error) {
	var recent []int64
	for _, at := range times {
		if at > now-3600 {
			recent = append(recent, at)
		}
	}
	if len(recent) >= 2 {
		return nil, errNoneLeft
	}
	return recent, nil
}

// TestUsesAreCounted: a use counts with its record or not at all, and neither a
// restart nor a clock that is set back makes it count for less.
func TestUsesAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := Options{Clock: func() time.Time { return now }}
	s, dir := testStore(t, o)
	vm, other := addBond(t, s).Bond.VM(), addBond(t, s).Bond.VM()
	use := func(vm bond.VMID, name string) error {
		return s.Update(func(tx *Tx) error { return tx.Use(vm, name, 0, twice, Entry{Kind: "call", Text: name}) })
	}
	records := func() (n uint64) {
		_ = s.View(func(tx *Tx) error { h, err := tx.AuditHead(vm); n = h.Seq; return err })
		return n
	}
	before := records()
	for i, want := range []error{nil, nil, errNoneLeft} {
		if err := use(vm, "pause"); !errors.Is(err, want) {
			t.Fatalf("use %d: %v, want %v", i, err, want)
		}
	}
	if n := records() - before; n != 2 {
		t.Errorf("%d records of two uses", n)
	}
	if err := errors.Join(use(vm, "reset"), use(other, "pause"), use(vm, UseName([32]byte{1}, "pause"))); err != nil {
		t.Errorf("uses count apart: %v", err)
	}
	if err := use(bond.NewVMID(), "pause"); !errors.Is(err, ErrUnknownVM) {
		t.Errorf("a VM without a bond: %v", err)
	}
	_ = s.Close()
	now = now.Add(-48 * time.Hour)
	s = reopen(t, dir, o)
	if err := use(vm, "pause"); !errors.Is(err, errNoneLeft) {
		t.Errorf("after a restart with the clock set back: %v", err)
	}
	now = now.Add(49 * time.Hour)
	if err := use(vm, "pause"); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	if _, err := s.DeleteBond(vm); err != nil {
		t.Fatal(err)
	}
	_ = s.View(func(tx *Tx) error {
		if tx.tx.Bucket(bucketGrants).Get(vm[:]) != nil {
			t.Error("the uses outlive the bond")
		}
		return nil
	})
}

func TestUsesAreBounded(t *testing.T) {
	s, _ := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	err := s.Update(func(tx *Tx) error {
		for i := range maxUseNames {
			if err := tx.Use(vm, UseName([32]byte{byte(i), 1}, "a"), time.Now().Add(time.Hour).Unix(), twice); err != nil {
				return err
			}
		}
		if err := tx.Use(vm, "one more", 0, twice); err == nil {
			t.Error("there is no limit on names")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Those whose delegation has ended make room.
	err = s.Update(func(tx *Tx) error {
		tx.now = tx.now.Add(2 * time.Hour)
		return tx.Use(vm, "one more", 0, twice)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRevocations(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := Options{Clock: func() time.Time { return now }}
	s, dir := testStore(t, o)
	vm := addBond(t, s).Bond.VM()
	ask := func(id byte, issued int64) (err error) {
		_ = s.View(func(tx *Tx) error { err = tx.Delegated(vm, [32]byte{id}, issued); return nil })
		return err
	}
	if err := s.Update(func(tx *Tx) error { return tx.Revoke(vm, [32]byte{1}, Entry{Kind: "policy"}) }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = reopen(t, dir, o)
	if err := ask(1, now.Unix()); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked one: %v", err)
	}
	if err := ask(2, now.Unix()); err != nil {
		t.Errorf("another one: %v", err)
	}
	// All, also those that an owner with a faster clock issued.
	if err := s.Update(func(tx *Tx) error { return tx.RevokeAll(vm, now.Unix()+100) }); err != nil {
		t.Fatal(err)
	}
	for issued, want := range map[int64]error{now.Unix(): ErrRevoked, now.Unix() + 100: ErrRevoked, now.Unix() + 101: nil} {
		if err := ask(2, issued); !errors.Is(err, want) {
			t.Errorf("issued at %d: %v, want %v", issued, err, want)
		}
	}
	if err := s.Update(func(tx *Tx) error { return tx.RevokeAll(vm, 5) }); err != nil {
		t.Fatal(err)
	}
	if err := ask(2, now.Unix()+50); !errors.Is(err, ErrRevoked) {
		t.Error("a second revocation took the first one back")
	}
	if err := s.Update(func(tx *Tx) error {
		for i := range maxRevoked + 1 {
			if err := tx.Revoke(vm, [32]byte{byte(i), byte(i >> 8), 1}); err != nil {
				return err
			}
		}
		return nil
	}); err == nil {
		t.Error("there is no limit on revocations")
	}
}

func TestPauseRecords(t *testing.T) {
	s, dir := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	want := PauseRecord{Instance: 3, Resume: 77, Name: "pause"}
	if err := s.Update(func(tx *Tx) error { return tx.SetPause(vm, want) }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = reopen(t, dir, Options{})
	_ = s.View(func(tx *Tx) error {
		if got, err := tx.Pause(vm); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
		return nil
	})
}

// TestUpgrade: databases of earlier formats are taken over with their bonds.
func TestUpgrade(t *testing.T) {
	for format := byte(1); format < byte(FormatVersion); format++ {
		testUpgrade(t, format)
	}
}

func testUpgrade(t *testing.T, format byte) {
	s, dir := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	err := s.db.Update(func(tx *bolt.Tx) error {
		for name, from := range since {
			if uint32(format) < from {
				if err := tx.DeleteBucket([]byte(name)); err != nil {
					return err
				}
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte{0, 0, 0, format})
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = reopen(t, dir, Options{})
	if err := s.Update(func(tx *Tx) error { return tx.Use(vm, "pause", 0, twice) }); err != nil {
		t.Error(err)
	}
	if err := s.PutBuild(vm, "root", &BuildRecord{Done: 1}); err != nil {
		t.Error(err)
	}
	// Only format 1 may lack it.
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketGrants) }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without its bucket: %v", err)
	}
}
