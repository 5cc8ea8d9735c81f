package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/test/guest"
)

const secret = "the launch code is 5309 1728"

// TestBoot boots guests by both firmwares from every bus, from disks that came
// about in every way that is promised.
func TestBoot(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	for _, c := range []struct {
		name   string
		kernel guest.Kernel
		root   string // the guest's root device
		make   func(u *user, image, name string)
		flags  []string
	}{
		{"bios-ide", guest.Cloud, "/dev/sda2", (*user).fromQCOW2, []string{"--bus", "ide"}},
		{"bios-virtio", guest.Cloud, "/dev/vda2", luksFormat(512), nil},
		{"uefi-virtio", guest.Cloud, "/dev/vda2", luksFormat(4096), []string{"--firmware", "uefi"}},
		{"uefi-sata", guest.Generic, "/dev/sda2", (*user).disk, []string{"--firmware", "uefi", "--bus", "sata"}},
		{"uefi-nvme", guest.Cloud, "/dev/nvme0n1p2", (*user).disk, []string{"--firmware", "uefi", "--bus", "nvme"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &user{&world{t, w.lab}, u.tenant}
			c.make(u, image(t, guest.Options{Kernel: c.kernel, Secret: secret}), c.name+".luks")
			u.create(c.name, c.name+".luks", c.flags...)
			u.run(exitDone, "vm", "start", c.name)
			u.await(c.name, "UVBOND-GUEST-UP")
			u.await(c.name, "UVBOND-SECRET "+secret)
			u.await(c.name, "UVBOND-BOOTS 1 root "+c.root+" counter 0")
			u.await(c.name, "tick 1")
			u.says(exitDone, "stopped", "vm", "poweroff", c.name)
			if left := append(w.lab.QEMUs(), w.lab.Keepers()...); len(left) > 0 {
				t.Errorf("processes after poweroff: %v", left)
			}
		})
	}
}

// fromQCOW2 encrypts a compressed qcow2 image with the default key derivation.
func (u *user) fromQCOW2(image, name string) {
	u.Helper()
	q := filepath.Join(u.TempDir(), "image.qcow2")
	if err := guest.QCOW2(u.Context(), image, q); err != nil {
		u.Fatal(err)
	}
	u.take(q, "image.qcow2")
	u.run(exitDone, "disk", "encrypt", "image.qcow2", name, "--passphrase-file", "passphrase")
	u.says(exitDone, "argon2id", "disk", "info", name)
}

// luksFormat makes a disk by cryptsetup, and fills it without UVBond's client.
func luksFormat(sector int) func(*user, string, string) {
	return func(u *user, image, name string) {
		u.Helper()
		plain, err := os.Open(image)
		if err != nil {
			u.Fatal(err)
		}
		defer plain.Close()
		st, err := plain.Stat()
		if err != nil {
			u.Fatal(err)
		}
		path := filepath.Join(u.TempDir(), name)
		cryptsetupFormat(u.T, path, st.Size(), sector)
		fill(u.T, path, plain)
		u.take(path, name)
	}
}

// cryptsetupFormat makes an empty LUKS2 disk for size bytes of data.
func cryptsetupFormat(t *testing.T, path string, size int64, sector int) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size+16<<20); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--sector-size", fmt.Sprint(sector), "--key-file", key, path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if p, err := exec.LookPath("/usr/sbin/cryptsetup"); err == nil {
		cmd.Path, cmd.Err = p, nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup: %v: %s (apt-get install cryptsetup-bin)", err, out)
	}
}

// fill writes plain data through the encrypted device.
func fill(t *testing.T, path string, plain io.Reader) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := luks.ReadHeader(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.Unlock([]byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.NewDevice(b, disk.Params{Key: key, SectorSize: h.Segment.SectorSize, DataOffset: h.Segment.Offset, Length: h.Segment.Length, IVTweak: h.Segment.IVTweak})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestGuestReadsItsDisks gives a guest data disks: a plain one, a read-only
// one, and LUKS2 disks written by `uvbond disk encrypt` inside of
// encrypted disks, which the guest opens with its own dm-crypt.
func TestGuestReadsItsDisks(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	data := make([]byte, 2<<20)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(data)
	if err := u.tenant.Write("data", data); err != nil {
		t.Fatal(err)
	}
	encrypt := func(from, to, sector string) {
		u.run(exitDone, append([]string{"disk", "encrypt", from, to, "--format", "raw", "--sector-size", sector, "--passphrase-file", "passphrase"}, cheap...)...)
	}
	encrypt("data", "data.luks", "4096")
	encrypt("data", "inner512", "512")
	encrypt("inner512", "outer512.luks", "4096")
	encrypt("data", "inner4096", "4096")
	encrypt("inner4096", "outer4096.luks", "512")
	encrypt("data", "fixed.luks", "512")
	u.disk(image(t, guest.Options{Cryptsetup: true, Script: `
		echo "SUM plain $(sha256sum </dev/vdb)"
		driver dm-crypt
		printf %s '` + passphrase + `' >/run/key
		for d in vdc vdd; do
			cryptsetup open --key-file /run/key /dev/$d inner-$d && echo "SUM $d $(sha256sum </dev/mapper/inner-$d)"
		done
		echo changed | dd of=/dev/vde bs=512 count=1 conv=fsync && echo "WROTE vde"
		echo changed | dd of=/dev/vdb bs=512 count=1 conv=fsync,notrunc && echo "WROTE vdb"
	`}), "root.luks")
	u.create("web1", "root.luks", "--disk", "data.luks", "--disk", "outer512.luks", "--disk", "outer4096.luks", "--disk", "fixed.luks,ro")
	u.run(exitDone, "vm", "start", "web1")
	out := u.await("web1", "UVBOND-SCRIPT-DONE 0")
	sum := sha256.Sum256(data)
	for _, d := range []string{"plain", "vdc", "vdd"} {
		want := fmt.Sprintf("SUM %s %s", d, hex.EncodeToString(sum[:]))
		if !contains(out, want) {
			t.Errorf("no %q:\n%s", want, out)
		}
	}
	if contains(out, "WROTE vde") {
		t.Error("the guest wrote to a read-only disk")
	}
	u.run(exitDone, "vm", "poweroff", "web1")
}
