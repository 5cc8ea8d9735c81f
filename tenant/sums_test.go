package tenant

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

const (
	goodSum  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherSum = "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestReadSHA256(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "sums")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	for name, c := range map[string]struct{ given, want, err string }{
		"digits":      {goodSum, goodSum, ""},
		"upper case":  {strings.ToUpper(goodSum), goodSum, ""},
		"gnu":         {file(otherSum + "  debian.raw\n" + goodSum + "  debian-12.raw\n"), goodSum, ""},
		"gnu binary":  {file(goodSum + " *debian-12.raw\r\n"), goodSum, ""},
		"dot":         {file(goodSum + "  ./debian-12.raw"), goodSum, ""},
		"bsd":         {file("SHA256 (debian-12.raw) = " + goodSum + "\n"), goodSum, ""},
		"signed":      {file("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + goodSum + "  debian-12.raw\n-----BEGIN PGP SIGNATURE-----\n"), goodSum, ""},
		"twice":       {file(strings.Repeat(goodSum+"  debian-12.raw\n", 2)), goodSum, ""},
		"nothing":     {"", "", "--sha256 is missing"},
		"spaces":      {" " + goodSum + "\n", goodSum, ""},
		"line":        {goodSum + "  debian-12.raw\n", goodSum, ""},
		"bsd line":    {"SHA256 (debian-12.raw) = " + goodSum, goodSum, ""},
		"other line":  {goodSum + "  debian-13.raw", "", "no digest of debian-12.raw"},
		"short":       {goodSum[:63], "", "63 hexadecimal digits, and a SHA-256 has 64"},
		"another sum": {goodSum + goodSum, "", "128 hexadecimal digits"},
		"a word":      {"debian", "", "neither a SHA-256 nor a file"},
		"two":         {file(goodSum + "  debian-12.raw\n" + otherSum + "  debian-12.raw\n"), "", "two different digests"},
		"not there":   {file(goodSum + "  debian-13.raw\n"), "", "no digest of debian-12.raw"},
		"in a folder": {file(goodSum + "  evil/debian-12.raw\n"), "", "no digest"},
		"sha512":      {file(goodSum + goodSum + "  debian-12.raw\n"), "", "no SHA-256"},
		"bsd sha512":  {file("SHA512 (debian-12.raw) = " + goodSum + goodSum + "\n"), "", "no digest"},
		"large":       {file(strings.Repeat("x", maxSums+1)), "", "larger than 1 MiB"},
		"empty":       {file(""), "", "no digest"},
	} {
		sum, err := ReadSHA256(c.given, "debian-12.raw")
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%s: %x, %v", name, sum, err)
		}
	}
}

// FuzzSums: what is found is there.
func FuzzSums(f *testing.F) {
	seeds := []string{goodSum + "  a\n", "SHA256 (a) = " + goodSum, goodSum + " *a\n" + otherSum + " *b\n", goodSum + goodSum + "  a\n", "\n\r\n  a"}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s), "a")
	}
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		sum, err := findSum(text, name)
		if err == nil && !strings.Contains(strings.ToLower(string(text)), hex.EncodeToString(sum[:])) {
			t.Fatalf("%x is not there", sum)
		}
	})
}
