package bond

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// chain returns n encoded records and the chain value after them.
func chain(n int) (records [][]byte, head [32]byte) {
	for i := range n {
		r := AuditRecord{
			Seq: uint64(i), Time: fixtureTime * 1000, Prev: head, Kind: "call", Who: "uid 990", Text: "query-status",
			Fields: map[string]string{"n": fmt.Sprint(i)},
		}
		raw := r.Encode()
		records = append(records, raw)
		head = HashRecord(head, raw)
	}
	return records, head
}

func TestVerifyChain(t *testing.T) {
	records, head := chain(9)
	got, list, err := VerifyChain(records, 0, [32]byte{})
	if err != nil || got != head || len(list) != 9 || list[8].Fields["n"] != "8" {
		t.Fatalf("whole chain: %v", err)
	}
	mid, _, err := VerifyChain(records[:4], 0, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := VerifyChain(records[4:], 4, mid); err != nil || got != head {
		t.Errorf("in two parts: %v", err)
	}
	if got, _, err := VerifyChain(nil, 4, mid); err != nil || got != mid {
		t.Errorf("no records: %v", err)
	}
}

func TestVerifyChainRefuses(t *testing.T) {
	clone := func() [][]byte { r, _ := chain(5); return r }
	for name, c := range map[string]struct {
		records func([][]byte) [][]byte
		from    uint64
		prev    [32]byte
		seq     uint64
	}{
		"dropped":       {func(r [][]byte) [][]byte { return append(r[:2], r[3:]...) }, 0, [32]byte{}, 2},
		"first dropped": {func(r [][]byte) [][]byte { return r[1:] }, 0, [32]byte{}, 0},
		"swapped":       {func(r [][]byte) [][]byte { r[1], r[2] = r[2], r[1]; return r }, 0, [32]byte{}, 1},
		"repeated":      {func(r [][]byte) [][]byte { r[2] = r[1]; return r }, 0, [32]byte{}, 2},
		"changed":       {func(r [][]byte) [][]byte { r[1] = bytes.Replace(r[1], []byte("query"), []byte("qwery"), 1); return r }, 0, [32]byte{}, 2},
		"other prev":    {func(r [][]byte) [][]byte { return r }, 0, [32]byte{1}, 0},
		"other from":    {func(r [][]byte) [][]byte { return r }, 1, [32]byte{}, 1},
		"not a record":  {func(r [][]byte) [][]byte { r[3] = []byte{0xa0}; return r }, 0, [32]byte{}, 3},
		"trailing":      {func(r [][]byte) [][]byte { r[3] = append(r[3], 0); return r }, 0, [32]byte{}, 3},
		"large":         {func(r [][]byte) [][]byte { r[3] = make([]byte, MaxRecord+1); return r }, 0, [32]byte{}, 3},
	} {
		_, _, err := VerifyChain(c.records(clone()), c.from, c.prev)
		var ce *ChainError
		if !errors.As(err, &ce) || ce.Seq != c.seq {
			t.Errorf("%s: %v", name, err)
		}
	}
	records, head := chain(2)
	chunk := &AuditChunk{Records: records, Head: head, Next: 2}
	if list, err := chunk.Verify([32]byte{}); err != nil || len(list) != 2 {
		t.Errorf("chunk: %v", err)
	}
	// The last record can be changed without breaking the chain inside: the head tells.
	chunk.Records[1] = bytes.Replace(records[1], []byte("query"), []byte("qwery"), 1)
	if _, err := chunk.Verify([32]byte{}); err == nil {
		t.Error("chunk with a changed last record verifies")
	}
}

// TestEncodeHostile shows that whatever an adversary sent can be recorded and
// verified.
func TestEncodeHostile(t *testing.T) {
	r := AuditRecord{
		Time: -5, Kind: strings.Repeat("k", 100), Who: "\x1b[2J", Text: strings.Repeat("\xff\n", 5000),
		Fields: map[string]string{"": "", "\x00": "\x01", strings.Repeat("n", 500): strings.Repeat("日", 5000)},
	}
	for i := range 40 {
		r.Fields[fmt.Sprintf("field-%02d", i)] = "v"
	}
	raw := r.Encode()
	_, list, err := VerifyChain([][]byte{raw}, 0, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if got := list[0].Fields[droppedField]; got != "28" || len(list[0].Fields) > maxFields {
		t.Errorf("dropped %q of 43 fields, %d left", got, len(list[0].Fields))
	}
	if len(r.Fields) != 43 || r.Time != -5 {
		t.Error("Encode changed the record")
	}
}

// TestLargestRecord shows that records fit a chunk whatever is in them.
func TestLargestRecord(t *testing.T) {
	r := AuditRecord{Kind: strings.Repeat("k", 100), Who: strings.Repeat("w", 500), Text: strings.Repeat("t", 5000), Fields: map[string]string{}}
	for i := range 40 {
		r.Fields[fmt.Sprintf("%02d", i)+strings.Repeat("n", 100)] = strings.Repeat("v", 5000)
	}
	if n := len(r.Encode()); n > MaxRecord {
		t.Errorf("record of %d bytes, limit %d", n, MaxRecord)
	}
}
