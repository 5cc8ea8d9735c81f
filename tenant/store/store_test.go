package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newBond makes a bond as a registration does.
func newBond(t *testing.T) *bond.Bond {
	t.Helper()
	key, err := bond.GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	reg := &bond.Registration{
		Offered: bond.Supported, Chosen: bond.Version, IssuedAt: 1, Secret: bond.RandomSecret(32),
		Spec: bond.Spec{MemoryBytes: 64 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc", Disks: []bond.Disk{{
			Name: "disk0", Bus: "virtio", Boot: true, Cipher: bond.CipherAESXTS, SectorSize: 512, DataOffset: 16 << 20, Length: 1 << 20,
			UUID:   "0a79844b-6d40-4433-8d6d-c99f6248b720",
			Digest: bond.DiskDigest{Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Value: make([]byte, 32)}, VolumeKey: bond.RandomSecret(64),
		}}},
	}
	_, b, err := bond.SealRegistration(key.Public(), bond.NewTenantID(), bond.NewVMID(), reg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newVM(t *testing.T, s *Store, name string) *VM {
	t.Helper()
	b := newBond(t)
	vm := &VM{Name: name, ID: b.VM().String(), Host: "lab", Phase: PhaseBonded}
	if err := s.CreateVM(t.Context(), vm, b); err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestVMSurvives(t *testing.T) {
	s := newStore(t)
	vm := newVM(t, s, "web1")
	if _, err := s.UpdateVM(t.Context(), "web1", vm.ID, func(v *VM) { v.Descriptor, v.Instance = make([]byte, 32), 3 }); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.VM("web1")
	if err != nil || got.Instance != 3 || len(got.Descriptor) != 32 {
		t.Fatalf("%+v, %v", got, err)
	}
	b, err := again.Bond(got)
	if err != nil || b.VM().String() != vm.ID {
		t.Fatal(err)
	}
	if err := s.CreateVM(t.Context(), &VM{Name: "web1"}, b); fail.CodeOf(err) != fail.Usage {
		t.Fatalf("a taken name: %v", err)
	}
	if _, err := s.UpdateVM(t.Context(), "web1", "other", func(*VM) {}); err == nil {
		t.Fatal("another VM of the same name was changed")
	}
	if err := s.RemoveVM(t.Context(), "web1", vm.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.vmDir("web1")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the bond stays after removal")
	}
}

// TestLeftovers plays a client that was killed between the bond and vm.json.
func TestLeftovers(t *testing.T) {
	s := newStore(t)
	if err := os.MkdirAll(s.vmDir("web1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.bondPath("web1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := s.VMs(); err != nil || len(names) != 0 {
		t.Fatalf("%v, %v", names, err)
	}
	newVM(t, s, "web1")
}

func TestModes(t *testing.T) {
	s := newStore(t)
	newVM(t, s, "web1")
	if err := s.AddReceipt(t.Context(), "web1", Receipt{Nonce: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		if strings.HasPrefix(d.Name(), ".new-") {
			t.Errorf("%s was left behind", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Dir(), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.Dir()); err == nil || !strings.Contains(fail.HintOf(err), "chmod 700") {
		t.Fatalf("an open folder: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	s := newStore(t)
	vm := newVM(t, s, "web1")
	good, err := os.ReadFile(s.vmPath("web1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut": string(good[:len(good)/2]), "trailing": string(good) + "{}", "unknown field": `{"name":"web1","x":1}`,
		"other name": strings.Replace(string(good), "web1", "web2", 1), "large": strings.Repeat(" ", maxFile+1),
	} {
		if err := os.WriteFile(s.vmPath("web1"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.VM("web1"); err == nil || !strings.Contains(err.Error(), "damaged") || fail.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(s.bondPath("web1"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Bond(vm); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	s := newStore(t)
	for _, bad := range []string{"", ".", "..", "a/b", "-x", ".x", "a b", strings.Repeat("x", 64), "a\x00"} {
		if _, err := s.VM(bad); fail.CodeOf(err) != fail.Usage {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := s.Host(bad); fail.CodeOf(err) != fail.Usage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestTogether lets many clients change one VM; no change may be lost.
func TestTogether(t *testing.T) {
	s := newStore(t)
	vm := newVM(t, s, "web1")
	var wg sync.WaitGroup
	const clients, each = 6, 10
	for c := range clients {
		wg.Go(func() {
			own, err := Open(s.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				if _, err := own.UpdateVM(t.Context(), "web1", vm.ID, func(v *VM) { v.Instance++ }); err != nil {
					t.Error(err)
				}
				nonce := fmt.Appendf(nil, "%016d%016d", c, i)
				if err := own.AddReceipt(t.Context(), "web1", Receipt{Nonce: nonce, Sealed: []byte{1}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := s.VM("web1")
	if err != nil || got.Instance != clients*each {
		t.Fatalf("%+v, %v", got, err)
	}
	list, damaged, err := s.Receipts("web1")
	if err != nil || damaged != 0 || len(list) != clients*each {
		t.Fatalf("%d receipts, %d damaged, %v", len(list), damaged, err)
	}
}

func TestReceiptsAreBounded(t *testing.T) {
	s := newStore(t)
	newVM(t, s, "web1")
	big := make([]byte, 400<<10)
	for i := range 10 {
		if err := s.AddReceipt(t.Context(), "web1", Receipt{Nonce: fmt.Appendf(nil, "%032d", i), Sealed: big}); err != nil {
			t.Fatal(err)
		}
	}
	list, _, err := s.Receipts("web1")
	if err != nil || len(list) == 0 || string(list[len(list)-1].Nonce) != fmt.Sprintf("%032d", 9) {
		t.Fatalf("%d, %v", len(list), err)
	}
	if st, err := os.Stat(s.receiptsPath("web1")); err != nil || st.Size() > maxReceiptBytes {
		t.Fatal("the file grew beyond its bound")
	}
	// A line that a crash cut short costs itself only.
	f, err := os.OpenFile(s.receiptsPath("web1"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"nonce":"AA`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.AddReceipt(t.Context(), "web1", Receipt{Nonce: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	again, damaged, err := s.Receipts("web1")
	if err != nil || damaged != 1 || len(again) != len(list)+1 {
		t.Fatalf("%d, %d damaged, %v", len(again), damaged, err)
	}
}

// TestLooksGoFirst: who looks every few seconds does not drive out the receipts of what was
// done.
func TestLooksGoFirst(t *testing.T) {
	s := newStore(t)
	newVM(t, s, "web1")
	var file bytes.Buffer
	for i := range maxReceipts + 1 {
		if err := json.NewEncoder(&file).Encode(Receipt{Nonce: fmt.Appendf(nil, "%032d", i), Sealed: []byte{1}, Look: i%100 != 0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.receiptsPath("web1"), file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.AddReceipt(t.Context(), "web1", Receipt{Nonce: fmt.Appendf(nil, "%032d", maxReceipts+1), Sealed: []byte{1}, Look: true}); err != nil {
		t.Fatal(err)
	}
	list, damaged, err := s.Receipts("web1")
	if err != nil || damaged != 0 || len(list) >= maxReceipts || !list[len(list)-1].Look {
		t.Fatalf("%d receipts, %d damaged, %v", len(list), damaged, err)
	}
	done := 0
	for i, r := range list {
		if !r.Look {
			done++
		}
		if i > 0 && string(r.Nonce) <= string(list[i-1].Nonce) {
			t.Errorf("receipt %s comes after %s", r.Nonce, list[i-1].Nonce)
		}
	}
	if done != maxReceipts/100+1 {
		t.Errorf("%d receipts of what was done are left, want %d", done, maxReceipts/100+1)
	}
}

func TestDigestCache(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, key := s.Digest(f)
	if err := s.PutDigest(t.Context(), f, key, "abc"); err != nil {
		t.Fatal(err)
	}
	if sum, _ := s.Digest(f); sum != "abc" {
		t.Fatalf("%q", sum)
	}
	if err := os.WriteFile(path, []byte("two!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if sum, _ := s.Digest(f); sum != "" {
		t.Fatal("a changed file kept its digest")
	}
}

func FuzzVM(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"web1"}`, `{"name":"web1"}x`, "", `[`, `{"name":"web1","spec":{"disks":[{}]}}`} {
		f.Add([]byte(s))
	}
	dir := filepath.Join(f.TempDir(), "home")
	s, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	if err := os.MkdirAll(s.vmDir("web1"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(s.vmPath("web1"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if vm, err := s.VM("web1"); err == nil && vm.Name != "web1" {
			t.Fatal("a VM of another name")
		}
	})
}
