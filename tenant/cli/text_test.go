package cli

import (
	"bytes"
	"testing"
)

func TestPlainWriter(t *testing.T) {
	in := "a\x1b[31mred\x1b[0m \x1b]0;title\x07b\x1b]2;x\x1b\\c\x1b(Bd\x00\x07e \xc3\xa9 \xc2\x9b31m \xff\r\n\x1bcf"
	want := "ared bcde \xc3\xa9 31m \r\nf"
	var whole, single bytes.Buffer
	w := &plainWriter{w: &whole}
	if _, err := w.Write([]byte(in)); err != nil {
		t.Fatal(err)
	}
	s := &plainWriter{w: &single}
	for i := range len(in) {
		if _, err := s.Write([]byte{in[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if whole.String() != want || single.String() != want {
		t.Fatalf("%q\n%q\nwant %q", whole.String(), single.String(), want)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]uint64{"1GiB": 1 << 30, "512MiB": 512 << 20, "2G": 2 << 30, "64m": 64 << 20, " 1 TiB": 1 << 40} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "1024", "GiB", "-1GiB", "0GiB", "1.5GiB", "1GB", "99999999TiB", "5000000TiB"} {
		if got, err := parseBytes(bad); err == nil {
			t.Errorf("%q is %d", bad, got)
		}
	}
}

func TestParseDisk(t *testing.T) {
	d, err := parseDisk("/dev/null,name=root,bus=nvme,discard,ro", "virtio")
	if err != nil || d.Name != "root" || d.Bus != "nvme" || !d.Discard || !d.ReadOnly {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, err := parseDisk("a,,b,name=x", "virtio"); err == nil || !bytes.Contains([]byte(err.Error()), []byte("a,b")) {
		t.Fatal(err)
	}
}

func FuzzPlainWriter(f *testing.F) {
	f.Add([]byte("a\x1b[31mred\x1b[0m \x1b]0;t\x07"))
	f.Add([]byte("\xc2\x9b31m\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		if _, err := (&plainWriter{w: &out}).Write(data); err != nil {
			t.Fatal(err)
		}
		if i := bytes.IndexFunc(out.Bytes(), func(r rune) bool {
			return r < 0x20 && r != '\n' && r != '\r' && r != '\t' && r != '\b' || r == 0x7f || r >= 0x80 && r < 0xa0
		}); i >= 0 {
			t.Fatalf("a control character came through: %q", out.Bytes())
		}
	})
}
