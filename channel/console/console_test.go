package console

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func examples() (client, hypervisor []Message) {
	long := strings.Repeat("n", MaxName)
	session := [SessionSize]byte{1, 2, 3}
	client = []Message{
		Attach{Session: session, Mode: Take, Start: All(), Size: Size{80, 24}, Name: "ada@laptop"},
		Attach{Start: At(7), Name: long}, Attach{Start: Last(0)},
		Input{Offset: 1 << 40, Data: []byte("ls\r")}, Input{Data: make([]byte, MaxInput)},
		Resize{Size{0, 0}}, SetMode{Write}, Who{}, Ack{9},
	}
	crowd := make([]Viewer, MaxViewers)
	for i := range crowd {
		crowd[i] = Viewer{ID: uint32(i), Since: int64(i) << 40, Size: Size{uint16(i), 1}, Mode: Waiting, Name: long}
	}
	hypervisor = []Message{
		Attached{Resumed: true, ID: 3, Offset: 5, End: 6, Input: 7}, Attached{},
		Output{Offset: 5, Data: []byte("login: ")}, Output{Data: make([]byte, MaxOutput)},
		Lost{5, 6}, Taken{7, 7}, Viewers{Viewers: []Viewer{}}, Viewers{crowd}, End{InstanceEnded, "powered off"}, End{OtherVersion, strings.Repeat("x", MaxText)},
	}
	return client, hypervisor
}

// TestRoundTrip: what is appended is read, one message after the other.
func TestRoundTrip(t *testing.T) {
	client, hypervisor := examples()
	for _, c := range []struct {
		messages []Message
		reader   func(io.Reader) *Reader
	}{{client, NewHypervisorReader}, {hypervisor, NewClientReader}} {
		var stream []byte
		for _, m := range c.messages {
			stream = Append(stream, m)
		}
		r := c.reader(&dribble{stream})
		for _, want := range c.messages {
			got, err := r.Next()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v, %v; want %+v", got, err, want)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		for cut := 1; cut < len(Append(nil, c.messages[0])); cut++ {
			if _, err := c.reader(bytes.NewReader(stream[:cut])).Next(); err != io.ErrUnexpectedEOF {
				t.Fatalf("cut after %d bytes: %v", cut, err)
			}
		}
	}
}

// dribble gives a few bytes at a time.
type dribble struct{ b []byte }

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 7)], d.b)
	d.b = d.b[n:]
	return n, nil
}

func TestStrict(t *testing.T) {
	attach := Append(nil, Attach{Name: "x"})
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	viewers := Append(nil, Viewers{[]Viewer{{Name: "x"}}})
	for name, c := range map[string]struct {
		frame  []byte
		reader func(io.Reader) *Reader
	}{
		"mode":                {change(attach, 20, 3), NewHypervisorReader},
		"mode of a list":      {change(attach, 20, byte(Waiting)), NewHypervisorReader},
		"start":               {change(attach, 21, 2), NewHypervisorReader},
		"name too long":       {change(attach, len(attach)-2, 2), NewHypervisorReader},
		"bytes behind":        {change(append(attach[:2:2], append([]byte{attach[2] + 1}, append(attach[3:], 0)...)...), 0, 1), NewHypervisorReader},
		"control character":   {change(attach, len(attach)-1, 0x1b), NewHypervisorReader},
		"not UTF-8":           {change(attach, len(attach)-1, 0xff), NewHypervisorReader},
		"empty input":         {[]byte{kindInput, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0}, NewHypervisorReader},
		"long input":          {[]byte{kindInput, 0xff, 0xff}, NewHypervisorReader},
		"long resize":         {[]byte{kindResize, 0, 5, 0, 0, 0, 0, 0}, NewHypervisorReader},
		"mode of set":         {[]byte{kindMode, 0, 1, byte(Waiting)}, NewHypervisorReader},
		"who with something":  {[]byte{kindWho, 0, 1, 0}, NewHypervisorReader},
		"kind":                {[]byte{0, 0, 0}, NewHypervisorReader},
		"the other's kind":    {[]byte{kindInput, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 'x'}, NewClientReader},
		"the client's kind":   {Append(nil, Lost{1, 1}), NewHypervisorReader},
		"flags":               {change(Append(nil, Attached{}), 4, 2), NewClientReader},
		"input and new":       {change(Append(nil, Attached{}), headerSize+attachedSize-1, 1), NewClientReader},
		"offset behind end":   {change(Append(nil, Attached{}), headerSize+13, 1), NewClientReader},
		"refused more":        {Append(nil, Taken{1, 2}), NewClientReader},
		"viewers cut":         {change(viewers, 3, 2), NewClientReader},
		"viewers too many":    {change(viewers, 3, MaxViewers+1), NewClientReader},
		"viewers left over":   {change(viewers, 3, 0), NewClientReader},
		"viewer's mode":       {change(viewers, 3+1+4+8+4, byte(Take)), NewClientReader},
		"end's reason":        {change(Append(nil, End{}), 3, byte(OtherVersion)+1), NewClientReader},
		"end's text too long": {[]byte{kindEnd, 0, 2, 0, 9}, NewClientReader},
	} {
		if m, err := c.reader(bytes.NewReader(c.frame)).Next(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if _, err := NewHypervisorReader(bytes.NewReader(change(attach, 3, 2))).Next(); !errors.Is(err, ErrVersion) {
		t.Errorf("version: %v", err)
	}
	if _, err := NewClientReader(bytes.NewReader(change(Append(nil, Attached{}), 3, 2))).Next(); !errors.Is(err, ErrVersion) {
		t.Errorf("version: %v", err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"ada@laptop": "ada@laptop", "Ада": "Ада", "a\x1b[2Jb": "a?[2Jb", "a\xffb": "a?b", "a\u202eb": "a?b", "a\nb": "a?b",
		strings.Repeat("ä", 40): strings.Repeat("ä", 32), strings.Repeat("x", 63) + "ä": strings.Repeat("x", 63),
	} {
		if got := CleanName(in); got != want || !isClean(got, MaxName) {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// seeds fails when the committed corpus is empty.
func seeds(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds for %s", f.Name())
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s is empty", name)
		}
	}
}

// FuzzReader: whatever is read, is what is appended again, byte for byte.
func FuzzReader(f *testing.F) {
	seeds(f)
	client, hypervisor := examples()
	for _, m := range client {
		f.Add(true, Append(nil, m))
	}
	for _, m := range hypervisor {
		f.Add(false, Append(nil, m))
	}
	f.Fuzz(func(t *testing.T, fromClient bool, stream []byte) {
		r := NewClientReader(bytes.NewReader(stream))
		if fromClient {
			r = NewHypervisorReader(bytes.NewReader(stream))
		}
		at := 0
		for {
			m, err := r.Next()
			if err != nil {
				return
			}
			b := Append(nil, m)
			if !bytes.Equal(b, stream[at:at+len(b)]) {
				t.Fatalf("%+v was read from %x and written as %x", m, stream[at:], b)
			}
			at += len(b)
		}
	})
}
