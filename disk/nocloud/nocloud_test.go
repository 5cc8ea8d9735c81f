package nocloud

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// names are those of the files, in the order of content.
var names = []string{"user-data", "meta-data", "vendor-data", "network-config"}

func content(f *Files) [][]byte {
	return [][]byte{f.UserData, f.MetaData, f.VendorData, f.NetworkConfig}
}

func mustImage(t testing.TB, f *Files) []byte {
	t.Helper()
	image, err := Image(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(image) != Size {
		t.Fatalf("%d bytes, want %d", len(image), Size)
	}
	return image
}

// tool runs a program on a file that holds the image, its last argument.
func tool(t *testing.T, image []byte, pkg, name string, args ...string) string {
	t.Helper()
	path := name
	if p := filepath.Join("/usr/sbin", name); exec.Command("test", "-x", p).Run() == nil {
		path = p
	}
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "IMAGE", file)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v (package %s)\n%s", name, args, err, pkg, out)
	}
	return string(out)
}

func sample() *Files {
	return &Files{
		UserData: []byte("#cloud-config\nhostname: web1\n"), MetaData: []byte("instance-id: 1\n"),
		VendorData: bytes.Repeat([]byte("x"), 3*SectorSize), NetworkConfig: []byte("version: 2\n"),
	}
}

// TestTools holds an image against those who know FAT.
func TestTools(t *testing.T) {
	for name, f := range map[string]*Files{
		"sample": sample(), "nothing": {},
		"full": {UserData: bytes.Repeat([]byte{0xff}, MaxContent)},
	} {
		t.Run(name, func(t *testing.T) {
			image := mustImage(t, f)
			// -n changes nothing, and a file system that it would change is an error.
			if out := tool(t, image, "dosfstools", "fsck.vfat", "-n", "-v", "IMAGE"); !strings.Contains(out, "12 bit entries") {
				t.Errorf("fsck.vfat says:\n%s", out)
			}
			out := tool(t, image, "util-linux", "blkid", "-p", "-o", "export", "IMAGE")
			for _, want := range []string{"LABEL=CIDATA\n", "LABEL_FATBOOT=CIDATA\n", "TYPE=vfat\n", "VERSION=FAT12\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("blkid says no %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "PTTYPE") {
				t.Errorf("blkid sees a partition table:\n%s", out)
			}
			if out := tool(t, image, "mtools", "mlabel", "-i", "IMAGE", "-s", "::"); !strings.Contains(out, Label) {
				t.Errorf("mlabel says:\n%s", out)
			}
			listing := tool(t, image, "mtools", "mdir", "-b", "-i", "IMAGE", "::")
			for i, data := range content(f) {
				if there := strings.Contains(listing, "::/"+names[i]+"\n"); there != (i < 2 || len(data) > 0) {
					t.Errorf("%s is listed: %v\n%s", names[i], there, listing)
				}
			}
		})
	}
}

// TestReadBack has mtools read files of all kinds of sizes.
func TestReadBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	random := func(most int) []byte {
		// Sizes around the end of a sector as often as others.
		n := rng.IntN(most + 1)
		if rng.IntN(2) == 0 {
			n = max(0, min(most, n/SectorSize*SectorSize+rng.IntN(3)-1))
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for range 12 {
		f := &Files{UserData: random(MaxContent / 4), MetaData: random(MaxContent / 4), VendorData: random(MaxContent / 4), NetworkConfig: random(MaxContent / 4)}
		image := mustImage(t, f)
		tool(t, image, "dosfstools", "fsck.vfat", "-n", "IMAGE")
		for i, want := range content(f) {
			if i >= 2 && len(want) == 0 {
				continue
			}
			if have := tool(t, image, "mtools", "mtype", "-i", "IMAGE", "::"+names[i]); have != string(want) {
				t.Errorf("%s: mtype returns %d bytes, %d were put in, or others", names[i], len(have), len(want))
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	if _, err := Image(&Files{UserData: make([]byte, MaxContent), MetaData: []byte("x")}); err == nil || !strings.Contains(err.Error(), "131073 bytes") {
		t.Errorf("one byte too many: %v", err)
	}
}

func TestDeterministic(t *testing.T) {
	if !bytes.Equal(mustImage(t, sample()), mustImage(t, sample())) {
		t.Error("equal files give different images")
	}
}

// read is a slow reader of a flat FAT12 folder, written from the specification:
// it returns the files by their long names.
func read(t *testing.T, image []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	sector, reserved, fatLen := int(le.Uint16(image[11:])), int(le.Uint16(image[14:])), int(le.Uint16(image[22:]))
	fats, slots := int(image[16]), int(le.Uint16(image[17:]))
	fat := image[reserved*sector : (reserved+fatLen)*sector]
	if !bytes.Equal(fat, image[(reserved+fatLen)*sector:(reserved+2*fatLen)*sector]) {
		t.Fatal("the FATs differ")
	}
	root := (reserved + fats*fatLen) * sector
	data := root + slots*32
	next := func(n int) int {
		v := int(le.Uint16(fat[n*3/2:]))
		if n%2 == 1 {
			return v >> 4
		}
		return v & 0xfff
	}
	files := map[string][]byte{}
	used := map[int]bool{}
	name := ""
	for i := range slots {
		e := image[root+i*32:][:32]
		switch {
		case e[0] == 0:
			return files
		case e[11] == 0x0f:
			part := ""
			for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				if u := le.Uint16(e[at:]); u != 0 && u != 0xffff {
					part += string(rune(u))
				}
			}
			name = part + name
		case e[11]&0x08 != 0:
			name = ""
		default:
			left, out := int(le.Uint32(e[28:])), []byte{}
			for n := int(le.Uint16(e[26:])); left > 0; n = next(n) {
				if n < 2 || n >= 0xff8 || used[n] {
					t.Fatalf("%s: cluster %d with %d bytes to come", name, n, left)
				}
				used[n] = true
				take := min(left, sector)
				out = append(out, image[data+(n-2)*sector:][:take]...)
				left -= take
			}
			files[name], name = out, ""
		}
	}
	return files
}

// FuzzImage reads back what it put in, and finds nothing else.
func FuzzImage(f *testing.F) {
	f.Add([]byte("#cloud-config\n"), []byte("instance-id: 1\n"), []byte("#cloud-config\nssh_keys: {}\n"), []byte("version: 2\n"))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{})
	f.Add(make([]byte, MaxContent-3), []byte{1}, []byte{2}, []byte{3})
	f.Add(make([]byte, SectorSize), make([]byte, SectorSize+1), make([]byte, SectorSize-1), make([]byte, 2*SectorSize))
	f.Add(make([]byte, MaxContent), []byte("x"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, user, meta, vendor, network []byte) {
		in := &Files{user, meta, vendor, network}
		image, err := Image(in)
		if (err != nil) != (in.Len() > MaxContent) {
			t.Fatalf("%d bytes: %v", in.Len(), err)
		}
		if err != nil {
			return
		}
		have := read(t, image)
		want := 2
		for i, data := range content(in) {
			if i >= 2 && len(data) == 0 {
				continue
			}
			if i >= 2 {
				want++
			}
			if got, ok := have[names[i]]; !ok || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes of %d, or others", names[i], len(got), len(data))
			}
		}
		if len(have) != want {
			t.Errorf("%d files, want %d", len(have), want)
		}
	})
}
