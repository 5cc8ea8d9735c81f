package luks

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image is a header of Format, and a disk of 1 MiB behind it.
func image(t testing.TB) []byte {
	t.Helper()
	b, err := build(FormatOptions{Passphrase: []byte(passphrase), DataSize: 1 << 20, PBKDF: cheap, UUID: "11111111-2222-4333-8444-555555555555"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const imageSize = DataOffset + 1<<20

// reseal sets both checksums right, as someone does who tampers with care.
func reseal(b []byte) {
	for place := 0; place < 2*newHeaderSize; place += newHeaderSize {
		c := b[place : place+newHeaderSize]
		sum := checksum(c)
		copy(c[offChecksum:], sum[:])
	}
}

// rewrite replaces text in the JSON of both copies and reseals.
func rewrite(t testing.TB, b []byte, old, new string) {
	t.Helper()
	for place := 0; place < 2*newHeaderSize; place += newHeaderSize {
		area := b[place+binarySize : place+newHeaderSize]
		text := string(bytes.TrimRight(area, "\x00"))
		changed := strings.Replace(text, old, new, 1)
		if changed == text || len(changed) >= len(area) {
			t.Fatalf("%q cannot be replaced in %s", old, text)
		}
		clear(area)
		copy(area, changed)
	}
	reseal(b)
}

// TestTamperedMetadata: everything that storage could say instead, with checksums
// that are right.
func TestTamperedMetadata(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"null cipher":              {`"encryption":"aes-xts-plain64","iv`, `"encryption":"cipher_null-ecb","iv`, "null cipher stores plain text"},
		"null keyslot cipher":      {`"encryption":"aes-xts-plain64","key`, `"encryption":"cipher_null-ecb","key`, "keyslots.0.area.encryption"},
		"other cipher":             {`"encryption":"aes-xts-plain64","iv`, `"encryption":"aes-cbc-plain64","iv`, "only aes-xts-plain64"},
		"re-encryption":            {`"keyslots_size":"16744448"`, `"keyslots_size":"16744448","requirements":{"mandatory":["online-reencrypt-v2"]}`, "resume-only"},
		"unknown requirement":      {`"keyslots_size":"16744448"`, `"keyslots_size":"16744448","requirements":{"mandatory":["opal"]}`, `needs "opal"`},
		"strange requirements":     {`"keyslots_size":"16744448"`, `"keyslots_size":"16744448","requirements":["x"]`, "not an object"},
		"requirement list":         {`"keyslots_size":"16744448"`, `"keyslots_size":"16744448","requirements":{"other":["x"]}`, "unknown member"},
		"segment flags":            {`"size":"dynamic"`, `"size":"dynamic","flags":["in-reencryption"]`, "segments.0.flags"},
		"integrity":                {`"size":"dynamic"`, `"size":"dynamic","integrity":{"type":"hmac(sha256)"}`, "segments.0.integrity"},
		"unknown member":           {`"size":"dynamic"`, `"size":"dynamic","x":1`, "segments.0.x: unknown member"},
		"letter case":              {`"size":"dynamic"`, `"Size":"dynamic"`, "segments.0.Size: unknown member"},
		"twice":                    {`"size":"dynamic"`, `"size":"4096","size":"dynamic"`, "there twice"},
		"second segment":           {`"segments":{"0":`, `"segments":{"1":{},"0":`, "2 segments"},
		"no segment":               {`"segments":{"0":`, `"tokens2":{},"segments":{},"x":{"0":`, "unknown member"},
		"segment 1":                {`"segments":{"0":`, `"segments":{"1":`, "segments.1: unknown member"},
		"linear segment":           {`"type":"crypt"`, `"type":"linear"`, "not crypt"},
		"sector size 3072":         {`"sector_size":4096`, `"sector_size":3072`, "is not 512"},
		"sector size 8192":         {`"sector_size":4096`, `"sector_size":8192`, "sector_size"},
		"sector size 4096.0":       {`"sector_size":4096`, `"sector_size":4096.0`, "not a whole number"},
		"sector size 4.096e3":      {`"sector_size":4096`, `"sector_size":4.096e3`, "not a whole number"},
		"sector size text":         {`"sector_size":4096`, `"sector_size":"4096"`, "not a number"},
		"offset in the header":     {`"offset":"16777216"`, `"offset":"4096"`, "detached"},
		"detached":                 {`"offset":"16777216"`, `"offset":"0"`, "detached"},
		"odd offset":               {`"offset":"16777216"`, `"offset":"16777728"`, "no multiple"},
		"offset beyond":            {`"offset":"16777216"`, `"offset":"33554432"`, "truncated"},
		"offset overflow":          {`"offset":"16777216"`, `"offset":"18446744073709551615"`, "not within"},
		"offset of 65 bits":        {`"offset":"16777216"`, `"offset":"18446744073709551616"`, "whole number"},
		"negative offset":          {`"offset":"16777216"`, `"offset":"-16777216"`, "whole number"},
		"offset plus":              {`"offset":"16777216"`, `"offset":"+16777216"`, "whole number"},
		"offset octal":             {`"offset":"16777216"`, `"offset":"016777216"`, "whole number"},
		"fixed size overflow":      {`"size":"dynamic"`, `"size":"9223372036854771712"`, "truncated"},
		"fixed size zero":          {`"size":"dynamic"`, `"size":"0"`, "no data"},
		"fixed size odd":           {`"size":"dynamic"`, `"size":"5000"`, "no multiple"},
		"odd tweak":                {`"iv_tweak":"0"`, `"iv_tweak":"1"`, "dm-crypt"},
		"json_size":                {`"json_size":"12288"`, `"json_size":"104857600"`, "json_size"},
		"keyslots_size":            {`"keyslots_size":"16744448"`, `"keyslots_size":"999999999999"`, "keyslots_size"},
		"keyslot of re-encryption": {`"type":"luks2"`, `"type":"reencrypt"`, "being re-encrypted"},
		"keyslot outside":          {`"offset":"32768"`, `"offset":"16776704"`, "not within the keyslots area"},
		"keyslot in the header":    {`"offset":"32768"`, `"offset":"4096"`, "not within the keyslots area"},
		"keyslot overflow":         {`"offset":"32768"`, `"offset":"9223372036854775296"`, "not within the keyslots area"},
		"keyslot too small":        {`"size":"258048"`, `"size":"4096"`, "too few"},
		"stripes":                  {`"stripes":4000`, `"stripes":4000000000`, "stripes"},
		"af hash":                  {`"hash":"sha256","stripes"`, `"hash":"whirlpool","stripes"`, "not supported"},
		"memory of 1 TiB":          {`"memory":64`, `"memory":1073741824`, "memory"},
		"no memory":                {`"memory":64`, `"memory":0`, "memory"},
		"endless passes":           {`"time":4`, `"time":4294967295`, "time"},
		"lanes":                    {`"cpus":2`, `"cpus":255`, "cpus"},
		"kdf":                      {`"type":"argon2id"`, `"type":"scrypt"`, "not argon2id"},
		"digest iterations":        {`"iterations":100000`, `"iterations":4294967295`, "iterations"},
		"digest type":              {`"type":"pbkdf2"`, `"type":"none"`, "not pbkdf2"},
		"digest hash":              {`"hash":"sha256","iterations"`, `"hash":"sha1","iterations"`, "more than 20 bytes"},
		"short digest":             {`"digest":"`, `"digest":"","x":"`, "digest"},
		"no keyslot":               {`"keyslots":["0"],"salt"`, `"keyslots":[],"salt"`, "no keyslot"},
		"other keyslot":            {`"keyslots":["0"],"salt"`, `"keyslots":["1"],"salt"`, "not there"},
		"keyslot 00":               {`"keyslots":["0"],"salt"`, `"keyslots":["00"],"salt"`, "not there"},
		"no digest":                {`"segments":["0"]`, `"segments":[]`, "no digest for segment 0"},
		"digest of two":            {`"segments":["0"]`, `"segments":["0","1"]`, "one digest"},
		"key size 48":              {`"key_size":64,"type":"luks2"`, `"key_size":48,"type":"luks2"`, "48 bytes"},
		"token without type":       {`"tokens":{}`, `"tokens":{"0":{"keyslots":[]}}`, "tokens.0.type"},
		"token 32":                 {`"tokens":{}`, `"tokens":{"32":{}}`, "below 32"},
		"unknown object":           {`"tokens":{}`, `"tokens":{},"more":{}`, "more: unknown member"},
		"no tokens":                {`,"tokens":{}`, ``, "tokens: missing"},
		"tokens null":              {`"tokens":{}`, `"tokens":null`, "not an object"},
		"deep":                     {`"tokens":{}`, `"tokens":` + strings.Repeat("[", 500) + strings.Repeat("]", 500), "nested"},
		"trailing":                 {`"tokens":{}`, `"tokens":{}}{"a":{}`, "after the object"},
		"cut off":                  {`"tokens":{}`, `"tokens":{`, "json"},
		"not UTF-8":                {`"tokens":{}`, `"tokens":{"` + "\xff" + `":1}`, "UTF-8"},
		"bad base64":               {`"digest":"`, `"digest":"*`, "digest"},
	} {
		b := image(t)
		rewrite(t, b, c.old, c.new)
		expectRefusal(t, name, b, imageSize, c.want)
	}
}

func expectRefusal(t *testing.T, name string, b []byte, size int64, want string) {
	t.Helper()
	_, err := ReadHeader(bytes.NewReader(b), size)
	var r *RefusedError
	if !errors.As(err, &r) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want a refusal that says %q", name, err, want)
	}
}

func TestTamperedBinary(t *testing.T) {
	second := newHeaderSize
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"no LUKS":            {func(b []byte) { copy(b, "QFI\xfb") }, "not a LUKS disk"},
		"LUKS1":              {func(b []byte) { b[7] = 1 }, "LUKS1"},
		"version 3":          {func(b []byte) { b[7] = 3 }, "version"},
		"JSON of 100 MB":     {func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 100<<20) }, "hdr_size"},
		"JSON of 2^63":       {func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 1<<63) }, "hdr_size"},
		"no JSON":            {func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 4096) }, "hdr_size"},
		"odd size":           {func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 20000) }, "hdr_size"},
		"other size":         {func(b []byte) { binary.BigEndian.PutUint64(b[offSize:], 32768) }, "first copy"},
		"first checksum":     {func(b []byte) { b[offChecksum] ^= 1 }, "first copy: its checksum is wrong"},
		"second checksum":    {func(b []byte) { b[second+offChecksum] ^= 1 }, "second copy: its checksum is wrong"},
		"no second copy":     {func(b []byte) { clear(b[second : 2*second]) }, "second copy: it is missing"},
		"two first copies":   {func(b []byte) { copy(b[second:2*second], b[:second]) }, "second copy"},
		"algorithm":          {func(b []byte) { copy(b[offAlgorithm:], "crc32\x00"); reseal(b) }, "not sha256"},
		"place":              {func(b []byte) { b[offPlace+7] = 1; reseal(b) }, "it says that it lies at"},
		"older second copy":  {func(b []byte) { b[second+offSeqID+7] = 0; reseal(b) }, "seqid: the two copies"},
		"second uuid":        {func(b []byte) { b[second+offUUID] = 'f'; reseal(b) }, "uuid: the two copies"},
		"second label":       {func(b []byte) { b[second+offLabel] = 'f'; reseal(b) }, "label: the two copies"},
		"second subsystem":   {func(b []byte) { b[second+offSubsystem] = 'f'; reseal(b) }, "subsystem: the two copies"},
		"second padding":     {func(b []byte) { b[second+offPadding] = 1; reseal(b) }, "padding: the two copies"},
		"second tail":        {func(b []byte) { b[second+4000] = 1; reseal(b) }, "padding: the two copies"},
		"second JSON":        {func(b []byte) { b[second+binarySize+5] ^= 1; reseal(b) }, "json: the two copies"},
		"second version":     {func(b []byte) { b[second+offVersion+1] = 1; reseal(b) }, "version: the two copies"},
		"text without end":   {func(b []byte) { fill(b, ' '); reseal(b) }, "does not end"},
		"bytes after text":   {func(b []byte) { b[second-1], b[2*second-1] = 1, 1; reseal(b) }, "after the text"},
		"label of lines":     {func(b []byte) { b[offLabel], b[second+offLabel] = 10, 10; reseal(b) }, "label"},
		"uuid without end":   {func(b []byte) { fillUUID(b, second); reseal(b) }, "uuid"},
		"uuid in upper case": {func(b []byte) { b[offUUID], b[second+offUUID] = 'A', 'A'; reseal(b) }, "uuid"},
	} {
		b := image(t)
		c.change(b)
		expectRefusal(t, name, b, imageSize, c.want)
	}
}

func fill(b []byte, c byte) {
	for i := range 2 * newHeaderSize {
		if i%newHeaderSize >= binarySize && b[i] == 0 {
			b[i] = c
		}
	}
}

func fillUUID(b []byte, second int) {
	for i := offUUID; i < offSubsystem; i++ {
		b[i], b[second+i] = 'a', 'a'
	}
}

func TestTruncated(t *testing.T) {
	b := image(t)
	for _, size := range []int64{-1, 0, 100, 4096, newHeaderSize, 2*newHeaderSize - 1, 2 * newHeaderSize, DataOffset - 1, DataOffset, DataOffset + 100, DataOffset + 4097} {
		if _, err := ReadHeader(bytes.NewReader(b), size); err == nil {
			t.Errorf("a disk of %d bytes is accepted", size)
		}
	}
	// Storage that says a size and has less.
	for _, n := range []int{0, 4095, 4096, 2*newHeaderSize - 1} {
		if _, err := ReadHeader(bytes.NewReader(b[:n]), imageSize); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes there: %v", n, err)
		}
	}
	if _, err := ReadHeader(bytes.NewReader(b), math.MaxInt64); err == nil {
		t.Error("a length that is no multiple of sectors is accepted")
	}
	h, err := ReadHeader(bytes.NewReader(b[:2*newHeaderSize]), imageSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock([]byte(passphrase)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Unlock without keyslots: %v", err)
	}
}

// TestChangingStorage answers each read differently.
func TestChangingStorage(t *testing.T) {
	b := image(t)
	large := bytes.Clone(b)
	binary.BigEndian.PutUint64(large[offSize:], 32768)
	if _, err := ReadHeader(&turns{images: [][]byte{large, b}}, imageSize); err == nil {
		t.Error("a header that changes between reads is accepted")
	}
	r := &turns{images: [][]byte{b}}
	if _, err := ReadHeader(r, imageSize); err != nil || r.n != 2 {
		t.Errorf("%d reads, %v", r.n, err)
	}
}

type turns struct {
	images [][]byte
	n      int
}

func (r *turns) ReadAt(p []byte, off int64) (int, error) {
	b := r.images[min(r.n, len(r.images)-1)]
	r.n++
	return bytes.NewReader(b).ReadAt(p, off)
}

// seeds are headers that cryptsetup wrote, without keyslots: both copies.
func seeds(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/*.header")
	if err != nil || len(names) < 6 {
		t.Fatalf("%d headers in testdata, need 6 or more: %v", len(names), err)
	}
	out := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if out[name], err = expand(text); err != nil {
			t.Fatal(name, err)
		}
	}
	return out
}

// expand undoes the shortening of testdata: lines of "offset base64".
func expand(text []byte) ([]byte, error) {
	b := make([]byte, 2*newHeaderSize)
	for line := range strings.Lines(string(text)) {
		var off int
		at, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, c := range at {
			off = off*10 + int(c-'0')
		}
		d, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, err
		}
		copy(b[off:], d)
	}
	return b, nil
}

// TestRecorded reads headers of cryptsetup as committed, accepted and refused.
func TestRecorded(t *testing.T) {
	for name, b := range seeds(t) {
		h, err := ReadHeader(bytes.NewReader(b), 24<<20)
		if refused := strings.Contains(name, "refused-"); refused != (err != nil) {
			t.Errorf("%s: %v", name, err)
		} else if !refused && Check(h, expectation(h)) != nil {
			t.Errorf("%s: does not equal itself", name)
		}
	}
}

// FuzzReadHeader changes headers and sets their checksums right, so that the
// fuzzer gets behind them.
func FuzzReadHeader(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b, int64(24<<20), true)
	}
	f.Add(image(f), int64(imageSize), false)
	f.Fuzz(func(t *testing.T, b []byte, size int64, seal bool) {
		if seal && len(b) >= 2*newHeaderSize {
			b = bytes.Clone(b)
			copy(b[newHeaderSize+binarySize:2*newHeaderSize], b[binarySize:newHeaderSize])
			reseal(b)
		}
		h, err := ReadHeader(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		s := h.Segment
		if s.Cipher != cipherName || s.Length == 0 || s.Offset < 2*minHeaderSize || s.Offset+s.Length > uint64(size) || s.Length%uint64(s.SectorSize) != 0 {
			t.Fatalf("accepted %+v of %d", s, size)
		}
		if err := Check(h, expectation(h)); err != nil {
			t.Fatal(err)
		}
		for i := range h.Keyslots {
			k := &h.Keyslots[i]
			if k.AreaOffset+k.AreaSize > s.Offset || k.AreaSize < splitSize(s.KeyBytes) {
				t.Fatalf("accepted keyslot %+v", k)
			}
			if k.KDF.Type == "pbkdf2" && k.KDF.Iterations < 2000 || k.KDF.MemoryKiB > 0 && k.KDF.MemoryKiB < 2000 && k.KDF.Time < 8 {
				h.open(k, []byte("x")) // must not panic
			}
		}
	})
}

// FuzzMetadata feeds JSON alone.
func FuzzMetadata(f *testing.F) {
	n := 0
	for _, b := range seeds(f) {
		f.Add(bytes.TrimRight(b[binarySize:newHeaderSize], "\x00"))
		n++
	}
	if n == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h := &Header{Metadata: text}
		if h.parseMetadata(newHeaderSize, 24<<20) == nil && (h.Segment.Cipher != cipherName || len(h.Keyslots) == 0) {
			t.Fatalf("accepted %+v", h)
		}
	})
}
