package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
)

func testStore(t testing.TB, o Options) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	return reopen(t, dir, o), dir
}

func reopen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// testRecord makes a real bond with the store's host; key fills the volume key.
func testRecord(t testing.TB, host *bond.HostKey, key byte) *BondRecord {
	t.Helper()
	r, err := newRecord(host, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newRecord(host *bond.HostKey, key byte) (*BondRecord, error) {
	volume := make([]byte, 64)
	for i := range volume {
		volume[i] = key ^ byte(7*i)
	}
	reg := &bond.Registration{
		Offered: bond.Supported, Known: bond.Supported, Chosen: bond.Version, IssuedAt: time.Now().Unix(),
		Secret: bond.RandomSecret(32),
		Spec: bond.Spec{MemoryBytes: 1 << 30, VCPUs: 2, Firmware: "bios", Machine: "pc",
			Disks: []bond.Disk{{Name: "root", Bus: "ide", Boot: true, Discard: true, Cipher: "aes-xts-plain64", SectorSize: 512,
				DataOffset: 16 << 20, Length: 64 << 20, UUID: "3f2b7c9e-0d4a-4f6b-8a51-0123456789ab", VolumeKey: bond.NewSecret(volume),
				Digest: bond.DiskDigest{Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Value: make([]byte, 32)},
				Base: &bond.Base{SHA256: [32]byte{1}, Size: 32 << 20, Keyslot: bond.Keyslot{Time: 4, Memory: 1 << 19, CPUs: 4,
					Salt: make([]byte, 32), Key: bond.NewSecret(make([]byte, 64))}}}},
			NICs:   []bond.NIC{{MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}, Model: "virtio"}},
			Screen: true, ChannelMAC: [6]byte{0x52, 0x54, 0, 9, 9, 9},
			Seed: &bond.Seed{UserData: bond.NewSecret([]byte("#cloud-config of the owner")), MetaData: bond.NewSecret([]byte("meta")),
				VendorData: bond.NewSecret([]byte("vendor")), NetworkConfig: bond.NewSecret([]byte("network"))}},
		Policy: "automaton status = query-status+ ;\n",
	}
	_, b, err := bond.SealRegistration(host.Public(), bond.NewTenantID(), bond.NewVMID(), reg)
	if err != nil {
		return nil, err
	}
	return &BondRecord{Bond: b, Spec: reg.Spec, Policy: reg.Policy}, nil
}

func addBond(t testing.TB, s *Store) *BondRecord {
	t.Helper()
	r := testRecord(t, s.HostKey(), 0x55)
	if err := s.AddBond(r, Entry{Kind: "registration", Who: "uid 1 pid 2", Text: "registered"}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReopenKeepsEverything(t *testing.T) {
	s, dir := testStore(t, Options{})
	id, created := s.HostKey().Public().ID(), s.Created()
	r := addBond(t, s)
	vm := r.Bond.VM()
	inst := InstanceRecord{Number: 1, Descriptor: [32]byte{1}, BootNonce: [32]byte{2}, StartedAt: 3, Slot: 4,
		QEMU: Process{5, 6}, QMPPath: "q", Keeper: Process{7, 8}, KeeperDir: "k", State: "running"}
	if err := s.PutInstance(vm, inst); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdatePolicy(vm, "automaton a = stop ;\n", Entry{Kind: "policy"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = reopen(t, dir, Options{})
	if s.HostKey().Public().ID() != id || !s.Created().Equal(created.Truncate(time.Second)) {
		t.Error("identity changed")
	}
	all, err := s.Bonds()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if all[0].Spec.Seed != nil || all[0].Bond.VM() != vm {
		t.Error("the list of bonds has seeds, or another VM")
	}
	got, err := s.Bond(vm)
	if err != nil {
		t.Fatal(err)
	}
	a, b := got.Bond.Export(), r.Bond.Export()
	if !a.Equal(b) || got.Policy != "automaton a = stop ;\n" || got.Registered == 0 {
		t.Errorf("bond differs: %+v", got)
	}
	if !got.Spec.Disks[0].VolumeKey.Equal(r.Spec.Disks[0].VolumeKey) {
		t.Error("volume key differs")
	}
	for _, spec := range []*bond.Spec{&got.Spec, &r.Spec} {
		seed, base := spec.Seed, spec.Disks[0].Base
		if string(seed.UserData.Bytes()) != "#cloud-config of the owner" || string(seed.MetaData.Bytes()) != "meta" ||
			string(seed.VendorData.Bytes()) != "vendor" || string(seed.NetworkConfig.Bytes()) != "network" {
			t.Error("seed differs")
		}
		if base.SHA256 != [32]byte{1} || base.Size != 32<<20 || base.Keyslot.Memory != 1<<19 || base.Keyslot.Key.Len() != 64 {
			t.Error("base differs")
		}
		spec.Seed, spec.Disks[0].Base, spec.Disks[0].VolumeKey = nil, nil, nil
	}
	if fmt.Sprint(got.Spec) != fmt.Sprint(r.Spec) {
		t.Errorf("spec differs:\n%v\n%v", got.Spec, r.Spec)
	}
	if back, err := s.Instance(vm); err != nil || !reflect.DeepEqual(*back, inst) {
		t.Errorf("instance: %+v, %v", back, err)
	}
	p, err := s.ReadAudit(vm, 0, 1<<20)
	if err != nil || len(p.Records) != 2 || p.Next != 2 {
		t.Fatalf("%+v %v", p, err)
	}
}

func TestVMIDIsUsedForEver(t *testing.T) {
	s, dir := testStore(t, Options{})
	r := addBond(t, s)
	vm := r.Bond.VM()
	if err := s.AddBond(r); !errors.Is(err, ErrUsed) {
		t.Errorf("second registration: %v", err)
	}
	if err := s.UseNonce(vm, [32]byte{1}, time.Now().Unix()+60); err != nil {
		t.Fatal(err)
	}
	head, err := s.DeleteBond(vm, Entry{Kind: "deleted"})
	if err != nil || head.Seq != 2 {
		t.Fatal(head, err)
	}
	if err := s.AddBond(r); !errors.Is(err, ErrUsed) {
		t.Errorf("registration after deletion: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, Options{})
	if err := s.AddBond(r); !errors.Is(err, ErrUsed) {
		t.Errorf("registration after deletion and restart: %v", err)
	}
	if _, err := s.Bond(vm); !errors.Is(err, ErrUnknownVM) {
		t.Errorf("deleted bond: %v", err)
	}
	err = s.View(func(tx *Tx) error {
		u, err := tx.Used(vm)
		if err != nil || u.AuditHead != head.Hash || u.AuditSeq != 2 || u.Deleted == 0 {
			t.Errorf("tombstone %+v, %v", u, err)
		}
		for _, b := range [][]byte{bucketBonds, bucketInstances, bucketNonces, bucketExpiries, bucketLogs, bucketAudit} {
			if k, _ := tx.tx.Bucket(b).Cursor().First(); k != nil {
				t.Errorf("something stays in %s: %x", b, k)
			}
		}
		if tx.tx.Bucket(bucketMeta).Get(keyScrub) != nil {
			t.Error("not scrubbed")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s, _ := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	boom := errors.New("boom")
	err := s.Update(func(tx *Tx) error {
		if err := tx.UseNonce(vm, [32]byte{1}, time.Now().Unix()+60, Entry{Kind: "open"}); err != nil {
			return err
		}
		if err := tx.PutInstance(vm, InstanceRecord{Number: 1}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := s.UseNonce(vm, [32]byte{1}, time.Now().Unix()+60); err != nil {
		t.Errorf("nonce was used up by a transaction that failed: %v", err)
	}
	if i, err := s.Instance(vm); err != nil || i != nil {
		t.Error(i, err)
	}
	if p, err := s.ReadAudit(vm, 0, 1000); err != nil || p.Next != 1 {
		t.Error(p, err)
	}
}

func TestUnknownVM(t *testing.T) {
	s, _ := testStore(t, Options{})
	vm := bond.NewVMID()
	_, read := s.ReadAudit(vm, 0, 100)
	_, app := s.Append(vm, Entry{})
	_, del := s.DeleteBond(vm)
	_, inst := s.Instance(vm)
	for name, err := range map[string]error{
		"UseNonce": s.UseNonce(vm, [32]byte{}, time.Now().Unix()+60), "PutInstance": s.PutInstance(vm, InstanceRecord{Number: 1}),
		"EndInstance": s.EndInstance(vm, ""), "UpdatePolicy": s.UpdatePolicy(vm, ""),
		"ReadAudit": read, "Append": app, "DeleteBond": del, "Instance": inst,
	} {
		if !errors.Is(err, ErrUnknownVM) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNonces(t *testing.T) {
	now := time.Unix(2_000_000_000, 0)
	o := Options{Clock: func() time.Time { return now }}
	s, dir := testStore(t, o)
	vm, other := addBond(t, s).Bond.VM(), addBond(t, s).Bond.VM()
	n := [32]byte{9}
	use := func(vm bond.VMID, expiry int64, want error) {
		t.Helper()
		if err := s.UseNonce(vm, n, expiry); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	use(vm, now.Unix()-1, ErrExpired)
	use(vm, -1, ErrExpired)
	use(vm, now.Unix()+60, nil)
	use(vm, now.Unix()+60, ErrReplayed)
	use(vm, now.Unix()+6000, ErrReplayed)
	use(other, now.Unix()+60, nil)
	_ = s.Close()
	s = reopen(t, dir, o)
	use(vm, now.Unix()+60, ErrReplayed)

	// After its validity the nonce is forgotten, and refused for being old, also
	// when the clock is set back or forgotten.
	old := now.Unix() + 60
	now = now.Add(2 * time.Minute)
	if err := s.UseNonce(vm, [32]byte{1}, now.Unix()+60); err != nil {
		t.Fatal(err)
	}
	now = now.Add(-2 * time.Minute)
	use(vm, old, ErrExpired)
	if got := s.Now(now); got.Unix() != old+60 {
		t.Errorf("Now ran back to %d", got.Unix())
	}
	_ = s.Close()
	s = reopen(t, dir, o)
	use(vm, old, ErrExpired)
	if err := s.ResetTime(); err != nil {
		t.Fatal(err)
	}
	if got := s.Now(now); !got.Equal(now) {
		t.Error("ResetTime did nothing")
	}
	use(vm, old, ErrExpired)
	use(vm, old+1, nil)
	_ = s.View(func(tx *Tx) error {
		if got := tx.tx.Bucket(bucketNonces).Stats().KeyN; got != 2 {
			t.Errorf("%d nonces kept, want 2", got)
		}
		return nil
	})
}

func TestInstanceNumbersOnlyGrow(t *testing.T) {
	s, dir := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	if err := s.PutInstance(vm, InstanceRecord{Number: 2}); !errors.Is(err, ErrInstance) {
		t.Errorf("skipped a number: %v", err)
	}
	if err := s.EndInstance(vm, "none"); !errors.Is(err, ErrInstance) {
		t.Error(err)
	}
	for n := uint64(1); n <= 3; n++ {
		if err := s.PutInstance(vm, InstanceRecord{Number: n}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutInstance(vm, InstanceRecord{Number: n, State: "paused"}); err != nil {
			t.Errorf("change: %v", err)
		}
		if err := s.PutInstance(vm, InstanceRecord{Number: n + 1}); !errors.Is(err, ErrInstance) {
			t.Errorf("second instance at once: %v", err)
		}
		if err := s.EndInstance(vm, "quit"); err != nil {
			t.Fatal(err)
		}
		if err := s.PutInstance(vm, InstanceRecord{Number: n}); !errors.Is(err, ErrInstance) {
			t.Errorf("number %d reused: %v", n, err)
		}
		_ = s.Close()
		s = reopen(t, dir, Options{})
	}
	_ = s.View(func(tx *Tx) error {
		end, err := tx.LastEnd(vm)
		if err != nil || end.Number != 3 || end.Reason != "quit" {
			t.Error(end, err)
		}
		if next, err := tx.NextInstance(vm); next != 4 || err != nil {
			t.Error(next, err)
		}
		return nil
	})
}

func TestDefer(t *testing.T) {
	s, dir := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	s.Defer(vm, Entry{Kind: "call", Text: "one"})
	s.Defer(vm, Entry{Kind: "call", Text: "two"})
	s.Defer(bond.NewVMID(), Entry{Kind: "call", Text: "gone"})
	h, err := s.Append(vm, Entry{Kind: "close"})
	if err != nil || h.Seq != 4 {
		t.Fatal(h, err)
	}
	s.Defer(vm, Entry{Kind: "call", Text: "three"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, Options{})
	p, err := s.ReadAudit(vm, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got := kinds(t, p); got != "registration call call close call" {
		t.Error(got)
	}
	s.Defer(vm, Entry{Kind: "call", Text: "four"})
	for i := 0; ; i++ {
		var h Head
		_ = s.View(func(tx *Tx) (err error) { h, err = tx.AuditHead(vm); return err })
		if h.Seq == 6 {
			break
		}
		if i == 50 {
			t.Fatal("the timer does not write")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestClosed(t *testing.T) {
	s, _ := testStore(t, Options{})
	_ = s.Close()
	if _, err := s.Bonds(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := s.UseNonce(bond.NewVMID(), [32]byte{}, 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoSecretInTheFiles(t *testing.T) {
	s, dir := testStore(t, Options{})
	r := addBond(t, s)
	vm := r.Bond.VM()
	desc := bytes.Repeat([]byte{0xd5}, 32)
	err := s.PutInstance(vm, InstanceRecord{Number: 1, Descriptor: [32]byte(desc), QMPPath: "/run/plain-path"},
		Entry{Kind: "boot", Text: "plain text of a record"})
	if err != nil {
		t.Fatal(err)
	}
	host, export := s.HostKey().Secret(), r.Bond.Export()
	secrets := map[string][]byte{"host key": host.Bytes(), "bond": export.Bytes()[8:40], "export": export.Bytes()[export.Len()-32:],
		"volume key": r.Spec.Disks[0].VolumeKey.Bytes()[:16], "descriptor": desc, "policy": []byte("query-status"), "seed": []byte("#cloud-config"),
		"path": []byte("plain-path"), "record": []byte("plain text of")}
	check := func() {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) < 3 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for name, secret := range secrets {
				if bytes.Contains(b, secret) {
					t.Errorf("%s is in %s", name, filepath.Base(f))
				}
			}
		}
	}
	check()

	// Not even the sealed record stays after a deletion.
	var sealed []byte
	_ = s.View(func(tx *Tx) error {
		sealed = bytes.Clone(tx.tx.Bucket(bucketBonds).Get(vm[:]))
		return nil
	})
	old, err := os.Open(filepath.Join(dir, fileDB))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if b, _ := os.ReadFile(old.Name()); !bytes.Contains(b, sealed) {
		t.Fatal("the test looks for the wrong bytes")
	}
	if _, err := s.DeleteBond(vm); err != nil {
		t.Fatal(err)
	}
	secrets["sealed bond"] = sealed
	check()
	was := make([]byte, 1<<20)
	n, _ := old.ReadAt(was, 0)
	if len(bytes.Trim(was[:n], "\x00")) != 0 {
		t.Error("the old file was not overwritten")
	}
}

func TestHundredBonds(t *testing.T) {
	s, dir := testStore(t, Options{})
	for range 100 {
		vm := addBond(t, s).Bond.VM()
		if err := s.UseNonce(vm, [32]byte{1}, time.Now().Unix()+60, Entry{Kind: "open"}, Entry{Kind: "close"}); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	s = reopen(t, dir, Options{})
	all, err := s.Bonds()
	if err != nil || len(all) != 100 {
		t.Fatal(len(all), err)
	}
	took := time.Since(begin)
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("100 bonds: %d KiB of heap, opened in %v", heap>>10, took)
	if heap > 4<<20 {
		t.Errorf("100 bonds take %d bytes of heap", heap)
	}
	runtime.KeepAlive(all)
}

func BenchmarkUseNonceAndAppend(b *testing.B) {
	s, _ := testStore(b, Options{})
	vm := addBond(b, s).Bond.VM()
	expiry := time.Now().Unix() + 3600
	e := Entry{Kind: "call", Who: "uid 990 pid 4711", Text: "query-status", Fields: map[string]string{"result": "ok"}}
	b.ResetTimer()
	for i := range b.N {
		if err := s.UseNonce(vm, [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, expiry, e, e, e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBondRead(b *testing.B) {
	s, _ := testStore(b, Options{})
	vm := addBond(b, s).Bond.VM()
	for range b.N {
		r, err := s.Bond(vm)
		if err != nil {
			b.Fatal(err)
		}
		r.Wipe()
	}
}
