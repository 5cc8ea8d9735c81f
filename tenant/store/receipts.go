package store

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/fail"
)

// Bounds of a VM's receipts file: beyond maxReceipts or maxReceiptBytes the
// older part goes, and of what only looked the older half first.
const (
	maxReceipts     = 1000
	maxReceiptBytes = maxFile / 2
)

// Receipt is a stored receipt. It stays sealed, so that showing it verifies it
// again.
type Receipt struct {
	Nonce    []byte `json:"nonce"`
	Received int64  `json:"received"` // the client's clock, Unix seconds
	Sealed   []byte `json:"sealed"`

	// Look: the command only looked, as a page does every few seconds. Such receipts
	// must not drive out the ones that tell what was done, and since when.
	Look bool `json:"look,omitempty"`
}

func (s *Store) receiptsPath(name string) string {
	return filepath.Join(s.vmDir(name), "receipts.jsonl")
}

// AddReceipt appends a verified receipt and then drops the oldest ones beyond
// the bounds.
func (s *Store) AddReceipt(ctx context.Context, name string, r Receipt) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	path := s.receiptsPath(name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// A line that a crash cut short is closed, so that it damages no other.
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], st.Size()-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fail.Wrap(err, fail.Other, "make room on the file system", "cannot save the receipt")
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return trim(path)
}

func trim(path string) error {
	data, err := read(path)
	if err != nil {
		return err
	}
	lines := bytes.SplitAfter(data, []byte{'\n'})
	if len(data) <= maxReceiptBytes && len(lines) <= maxReceipts+1 {
		return nil
	}
	lines = slices.DeleteFunc(lines, func(l []byte) bool { return len(l) == 0 })
	keep := lookedAt(lines, len(lines)/2)
	keep = keep[max(0, len(keep)-maxReceipts):]
	for size := len(bytes.Join(keep, nil)); size > maxReceiptBytes*3/4 && len(keep) > 1; keep = keep[1:] {
		size -= len(keep[0])
	}
	return write(path, bytes.Join(keep, nil))
}

// lookedAt leaves out what only looked, of the first n lines.
func lookedAt(lines [][]byte, n int) [][]byte {
	var keep [][]byte
	for i, line := range lines {
		var r struct{ Look bool }
		if i >= n || json.Unmarshal(line, &r) != nil || !r.Look {
			keep = append(keep, line)
		}
	}
	return keep
}

// Receipts returns the stored receipts, oldest first. A line that does not
// parse (a crash in the middle of a write) is counted, not hidden.
func (s *Store) Receipts(name string) (list []Receipt, damagedLines int, err error) {
	data, err := read(s.receiptsPath(name))
	if errIsMissing(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	for line := range bytes.SplitSeq(data, []byte{'\n'}) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r Receipt
		if json.Unmarshal(line, &r) != nil || len(r.Nonce) != 32 {
			damagedLines++
			continue
		}
		list = append(list, r)
	}
	return list, damagedLines, nil
}
