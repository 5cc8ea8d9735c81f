package xts

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// vector checks one data unit on every path that takes it. Two equal keys, as in
// the first vector of IEEE 1619, must be refused by New.
func vector(t *testing.T, name string, k []byte, first uint64, plain, want []byte) {
	t.Helper()
	c, err := New(k, len(plain), 1)
	if bytes.Equal(k[:len(k)/2], k[len(k)/2:]) {
		if !errors.Is(err, ErrEqualHalves) {
			t.Errorf("%s: %v, want ErrEqualHalves", name, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c.Wipe()
	for _, p := range pathsFor(len(plain)) {
		x := on(t, p, k, len(plain), 1)
		got := make([]byte, len(plain))
		if err := x.EncryptSectors(got, plain, first); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s, %v: %v, enciphered to %x", name, p, err, got)
		}
		if err := x.DecryptSectors(got, want, first); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s, %v: %v, deciphered to %x", name, p, err, got)
		}
	}
}

func TestIEEE1619(t *testing.T) { standard(t, "testdata/ieee1619.txt", 6) }

func TestNIST(t *testing.T) { standard(t, "testdata/nist_cavs11.txt", 1200) }

func standard(t *testing.T, file string, vectors int) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var n int
		var first uint64
		var k, p, c string
		if _, err := fmt.Sscan(line, &n, &k, &first, &p, &c); err != nil {
			t.Fatal(err)
		}
		vector(t, fmt.Sprintf("vector %d", n), unhex(t, k), first, unhex(t, p), unhex(t, c))
		count++
	}
	if count != vectors {
		t.Errorf("%d vectors, want %d", count, vectors)
	}
}

// TestWycheproof runs the cases of whole blocks; AES-192 keys and messages that
// need ciphertext stealing must be refused.
func TestWycheproof(t *testing.T) {
	text, err := os.ReadFile("testdata/wycheproof_aes_xts.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID                     int
				Key, IV, Msg, CT, Result string
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var done, refused, long int
	for _, g := range file.TestGroups {
		for _, c := range g.Tests {
			k, plain, iv := unhex(t, c.Key), unhex(t, c.Msg), unhex(t, c.IV)
			if len(k) == 48 || len(plain)%16 != 0 {
				if _, err := New(k, len(plain), 1); err == nil {
					t.Errorf("case %d was not refused", c.TcID)
				}
				refused++
				continue
			}
			if c.Result != "valid" {
				t.Fatalf("case %d: result %q", c.TcID, c.Result)
			}
			if len(iv) > 8 { // not a sector number
				long++
				continue
			}
			number := append(iv, make([]byte, 8)...)
			vector(t, fmt.Sprintf("case %d", c.TcID), k, binary.LittleEndian.Uint64(number), plain, unhex(t, c.CT))
			done++
		}
	}
	if done != 26 || refused != 81 || long != 16 {
		t.Errorf("%d cases done, %d refused, %d with long numbers", done, refused, long)
	}
}
