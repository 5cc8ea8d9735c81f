package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/encrypt"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/nbd"
	"github.com/uvbond/uvbond/test/guest"
)

const (
	passphrase = "a passphrase that two programs know"
	dataSize   = 2<<20 + 4096
	half       = 1 << 20 // the guest writes from here on
)

// crypt is one disk of the test.
type crypt struct {
	name   string
	format []string // of cryptsetup luksFormat; nil: see below
	ours   bool     // made by package encrypt
	sector uint32
	// Of plain dm-crypt, in units of 512 bytes.
	offset, skip uint64

	path  string
	plain []byte
	p     disk.Params
}

func crypts() []*crypt {
	return []*crypt{
		{name: "luks512", sector: 512, format: []string{}},
		{name: "luks4096", sector: 4096, format: []string{"--offset", "40968"}},
		{name: "luks512short", sector: 512, format: []string{"--offset", "32776", "--key-size", "256"}},
		{name: "ours512", sector: 512, ours: true},
		{name: "ours4096", sector: 4096, ours: true},
		{name: "plain512", sector: 512, offset: 1, skip: 12345},
		{name: "plain4096", sector: 4096, offset: 296, skip: 8 << 33},
	}
}

// key of the plain disks; it has no byte that a shell's printf would mind.
func key() []byte {
	k := make([]byte, 64)
	for i := range k {
		k[i] = byte(i*3 + 1)
	}
	return k
}

// TestDMCrypt: this side fills each disk, the guest's dm-crypt reads it and writes
// the second half and a few bytes within the first, this side reads that.
func TestDMCrypt(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	disks := crypts()
	for _, c := range disks {
		c.path = filepath.Join(dir, c.name)
		c.plain = make([]byte, dataSize)
		for i := range c.plain {
			c.plain[i] = byte(r.Uint32())
		}
		c.make(t)
		if !c.ours {
			plain := filepath.Join(dir, "plain")
			if err := os.WriteFile(plain, c.plain, 0o600); err != nil {
				t.Fatal(err)
			}
			c.copy(t, plain, "")
		}
	}
	out := boot(t, disks)
	for _, c := range disks {
		want := fmt.Sprintf("SUM %s %d %x", c.name, dataSize, sha256.Sum256(c.plain))
		if !strings.Contains(out, want) {
			t.Errorf("%s: dm-crypt does not read what was written here: no %q", c.name, want)
		}
		if !strings.Contains(out, "WROTE "+c.name) {
			t.Errorf("%s: dm-crypt did not write", c.name)
			continue
		}
		copy(c.plain[half:], bytes.Repeat([]byte(c.name+" by dm-crypt\n"), dataSize/len(c.name)))
		copy(c.plain[12345:], "some bytes of "+c.name)
		back := filepath.Join(dir, "back")
		c.copy(t, "", back)
		got, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, c.plain) {
			t.Errorf("%s: this side does not read what dm-crypt wrote", c.name)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// make makes the ciphertext and finds its parameters.
func (c *crypt) make(t *testing.T) {
	t.Helper()
	switch {
	case c.ours:
		o := encrypt.Options{Format: luks.FormatOptions{Passphrase: []byte(passphrase), SectorSize: c.sector, PBKDF: luks.PBKDF{Type: "pbkdf2", Iterations: 1000}}}
		if err := encrypt.File(t.Context(), bytes.NewReader(c.plain), dataSize, c.path, o, nil); err != nil {
			t.Fatal(err)
		}
	case c.format != nil:
		c.blank(t, 32<<20)
		args := append([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--sector-size", fmt.Sprint(c.sector), "--cipher", "aes-xts-plain64",
			"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"}, c.format...)
		run(t, passphrase, "cryptsetup", append(args, c.path)...)
	default:
		c.blank(t, int64(c.offset*512+dataSize))
		c.p = disk.Params{Key: key(), SectorSize: c.sector, DataOffset: c.offset * 512, Length: dataSize, IVTweak: c.skip}
		return
	}
	f, err := os.Open(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := luks.ReadHeader(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	k, err := h.Unlock([]byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	s := h.Segment
	c.p = disk.Params{Key: k, SectorSize: s.SectorSize, DataOffset: s.Offset, Length: dataSize, IVTweak: s.IVTweak}
	if err := os.Truncate(c.path, int64(s.Offset)+dataSize); err != nil { // the length is the file's
		t.Fatal(err)
	}
}

func (c *crypt) blank(t *testing.T, size int64) {
	t.Helper()
	f, err := os.Create(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// copy serves the disk by NBD and copies a file to it, or it to a file.
func (c *crypt) copy(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.NewDevice(b, c.p)
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(filepath.Dir(c.path), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- (&nbd.Server{Exports: []nbd.Export{{Device: d}}}).Serve(ctx, l) }()
	uri := "nbd+unix:///?socket=" + sock
	if to == "" {
		run(t, "", "nbdcopy", "--flush", from, uri)
	} else {
		run(t, "", "nbdcopy", uri, to)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// boot has dm-crypt in a guest read and write the disks, and returns what it said.
func boot(t *testing.T, disks []*crypt) string {
	t.Helper()
	var script strings.Builder
	script.WriteString("driver dm-crypt\nprintf %s '" + passphrase + "' >/run/pass\nprintf '")
	for _, b := range key() {
		fmt.Fprintf(&script, `\%03o`, b)
	}
	script.WriteString(`' >/run/key
` + findDisk + `
	check() { # name, arguments of cryptsetup
		name=$1
		shift
		cryptsetup open "$@" $(disk $name) $name || return
		m=/dev/mapper/$name
		echo "SUM $name $(blockdev --getsize64 $m) $(sha256sum <$m)"
		yes "$name by dm-crypt" | head -c ` + fmt.Sprint(dataSize-half) + ` | dd of=$m bs=64k seek=` + fmt.Sprint(half>>16) + ` conv=notrunc 2>/dev/null
		printf "some bytes of $name" | dd of=$m bs=1 seek=12345 conv=notrunc 2>/dev/null
		sync
		cryptsetup close $name && echo "WROTE $name"
	}
`)
	for _, c := range disks {
		if c.ours || c.format != nil {
			fmt.Fprintf(&script, "check %s --key-file /run/pass\n", c.name)
			continue
		}
		fmt.Fprintf(&script, "check %s --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/key --sector-size %d --offset %d --skip %d\n",
			c.name, c.sector, c.offset, c.skip)
	}
	script.WriteString("poweroff -f\n")
	var args []string
	for _, c := range disks {
		args = append(args, drive(c.name, c.path, "")...)
	}
	return runGuest(t, guest.Options{Cryptsetup: true, Script: script.String()}, args)
}

// drive gives a guest a file as a disk.
func drive(name, path, more string) []string {
	return []string{"-drive", "if=none,format=raw,id=" + name + ",file=" + path, "-device", "virtio-blk-pci,drive=" + name + ",serial=" + name + more}
}

// findDisk is for scripts: disk NAME prints the device with that serial number.
const findDisk = `disk() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo /dev/${d##*/}; done; }
`

// runGuest boots a guest, whose script powers it off, and returns what it said.
func runGuest(t *testing.T, o guest.Options, args []string) string {
	t.Helper()
	image, err := guest.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := guest.Copy(t.Context(), image, root); err != nil {
		t.Fatal(err)
	}
	all := []string{"-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-m", "256", "-no-reboot", "-serial", "stdio",
		"-object", "memory-backend-memfd,id=memory,size=256M,share=on", "-machine", "q35,memory-backend=memory"}
	all = append(append(all, drive("root", root, ",bootindex=0")...), args...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("the guest: %v\n%s", err, out)
	}
	return string(out)
}

func run(t *testing.T, in, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s\nhack/install-deps.sh all installs what is needed", name, err, out)
	}
}
