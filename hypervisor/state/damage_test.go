package state

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample makes a folder with some bonds and returns the bytes of its database.
func sample(t testing.TB) (dir string, db []byte) {
	t.Helper()
	s, dir := testStore(t, Options{})
	for range 6 {
		vm := addBond(t, s).Bond.VM()
		for n := range byte(4) {
			if err := s.UseNonce(vm, [32]byte{n}, time.Now().Unix()+60, Entry{Kind: "open", Text: strings.Repeat("x", 500)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := os.ReadFile(filepath.Join(dir, fileDB))
	if err != nil {
		t.Fatal(err)
	}
	return dir, db
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// openDamaged opens and reads all there is; nil is the only other outcome than
// ErrCorrupt or ErrKey.
func openDamaged(t testing.TB, dir string) error {
	t.Helper()
	s, err := Open(dir, Options{})
	if err == nil {
		defer s.Close()
		err = s.View(func(tx *Tx) error {
			ids, err := tx.VMs()
			for _, vm := range ids {
				if _, e := tx.ReadAudit(vm, 0, 1<<20); e != nil {
					err = e
				}
			}
			return err
		})
	}
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrKey) {
		t.Errorf("error of another kind: %v", err)
	}
	return err
}

func TestTruncatedDatabase(t *testing.T) {
	dir, db := sample(t)
	for _, n := range []int{0, 1, 100, 4096, 8191, 8192, 12288, len(db) / 4, len(db) / 2} {
		write(t, dir, fileDB, db[:n])
		if err := openDamaged(t, dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v", n, len(db), err)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, fileDB)); len(b) != n {
			t.Fatalf("the damaged file was changed: %d bytes, were %d", len(b), n)
		}
	}
}

func TestEditedDatabase(t *testing.T) {
	dir, db := sample(t)
	found := 0
	for i := range 400 {
		b := append([]byte(nil), db...)
		at := rand.IntN(len(b) * 3 / 4)
		if i%2 == 0 { // page headers and element tables
			at = at&^4095 + rand.IntN(128)
		}
		b[at] ^= 1 << rand.IntN(8)
		write(t, dir, fileDB, b)
		if openDamaged(t, dir) != nil {
			found++
		}
	}
	// The rest hit free pages and padding.
	t.Logf("%d of 400 edits refused", found)
	if found < 50 {
		t.Error("too few edits were noticed")
	}
}

// Every byte of every sealed value is covered, and so is its place.
func TestEditedRecord(t *testing.T) {
	dir, _ := sample(t)
	for _, bucket := range [][]byte{bucketBonds, bucketUsed, bucketNonces, bucketExpiries, bucketLogs} {
		s := reopen(t, dir, Options{})
		var keys, values [][]byte
		err := s.Update(func(tx *Tx) error {
			b := tx.tx.Bucket(bucket)
			_ = b.ForEach(func(k, v []byte) error {
				keys, values = append(keys, append([]byte(nil), k...)), append(values, append([]byte(nil), v...))
				return nil
			})
			if err := b.Put(keys[0], values[1]); err != nil {
				return err
			}
			return b.Put(keys[1], values[0])
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if err := openDamaged(t, dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("two values of %s swapped: %v", bucket, err)
		}
		dir, _ = sample(t)
	}
}

func TestWrongKey(t *testing.T) {
	dir, db := sample(t)
	key, err := os.ReadFile(filepath.Join(dir, fileKey))
	if err != nil {
		t.Fatal(err)
	}
	other := append([]byte(nil), key...)
	other[3] ^= 1
	for name, b := range map[string][]byte{"another": other, "short": key[:31], "long": append(key[:32:32], 0), "empty": nil} {
		write(t, dir, fileKey, b)
		if err := openDamaged(t, dir); !errors.Is(err, ErrKey) {
			t.Errorf("%s key: %v", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, fileKey)); err != nil {
		t.Fatal(err)
	}
	if err := openDamaged(t, dir); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileKey)); err == nil {
		t.Error("a key was made beside a database that it does not open")
	}
	write(t, dir, fileKey, key)
	if b, _ := os.ReadFile(filepath.Join(dir, fileDB)); string(b) != string(db) {
		t.Error("the database was changed")
	}
	if err := openDamaged(t, dir); err != nil {
		t.Errorf("with everything restored: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, fileDB)); err != nil {
		t.Fatal(err)
	}
	if err := openDamaged(t, dir); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no database: %v", err)
	}
}

// A first start may be cut off after each of its steps.
func TestInterruptedFirstStart(t *testing.T) {
	for step := range 3 {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, dir, fileNew, make([]byte, 5000*step))
		if step > 0 {
			if _, err := FileKey(filepath.Join(dir, fileKey)).Create(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		_ = s.Close()
	}
}

func TestFormatVersion(t *testing.T) {
	s, dir := testStore(t, Options{})
	err := s.Update(func(tx *Tx) error { return tx.tx.Bucket(bucketMeta).Put(keyFormat, []byte{0, 0, 0, 9}) })
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Error(err)
	}
}

func TestUnfinishedScrub(t *testing.T) {
	s, dir := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	if err := s.Update(func(tx *Tx) error { return tx.put(bucketMeta, keyScrub, nil) }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	write(t, dir, fileScrub, []byte("half"))
	s = reopen(t, dir, Options{})
	if _, err := s.Bond(vm); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileScrub)); err == nil {
		t.Error("the copy stays")
	}
	_ = s.View(func(tx *Tx) error {
		if tx.tx.Bucket(bucketMeta).Get(keyScrub) != nil {
			t.Error("still due")
		}
		return nil
	})
}

func TestPermissions(t *testing.T) {
	s, dir := testStore(t, Options{})
	for name, want := range map[string]os.FileMode{".": 0o700, fileDB: 0o600, fileKey: 0o600, fileLock: 0o600} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
	if _, err := s.DeleteBond(addBond(t, s).Bond.VM()); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, fileDB)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("after a scrub: %v %v", fi.Mode(), err)
	}
	_ = s.Close()
	for _, name := range []string{".", fileDB, fileKey} {
		path := filepath.Join(dir, name)
		fi, _ := os.Stat(path)
		if err := os.Chmod(path, fi.Mode().Perm()|0o040); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s readable by the group: %v", name, err)
		}
		_ = os.Chmod(path, fi.Mode().Perm())
	}
}

func TestLocked(t *testing.T) {
	_, dir := testStore(t, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process") {
		t.Error(err)
	}
}

func FuzzOpenPages(f *testing.F) {
	dir, db := sample(f)
	f.Add(uint32(16), uint64(0))
	f.Add(uint32(8192), ^uint64(0))
	f.Add(uint32(12296), uint64(3))
	f.Add(uint32(12304), uint64(1)<<40)
	f.Fuzz(func(t *testing.T, at uint32, value uint64) {
		b := append([]byte(nil), db...)
		order.PutUint64(b[int(at)%(len(b)-8):], value)
		path := filepath.Join(dir, "fuzz.db")
		write(t, dir, "fuzz.db", b)
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := checkPages(file); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}
