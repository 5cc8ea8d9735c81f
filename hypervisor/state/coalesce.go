package state

import (
	"crypto/sha256"
	"maps"
	"strconv"

	"github.com/uvbond/uvbond/bond"
)

// Limits of what a log takes of coalesced entries; see the package comment.
const (
	budgetBurst   = 64         // records
	budgetRefill  = 30_000     // milliseconds for one more
	pendingMax    = 8          // different entries counted apart
	pendingWindow = 10 * 60000 // milliseconds that a count may stay one
)

// budget is a token bucket, filled by the transaction's clock.
type budget struct {
	Tokens int64 `cbor:"1,keyasint"`
	At     int64 `cbor:"2,keyasint"` // Unix ms of the last refill
}

func (b *budget) take(now int64) bool {
	if n := (now - b.At) / budgetRefill; n > 0 {
		b.Tokens = min(b.Tokens+n, budgetBurst)
		b.At += n * budgetRefill
	}
	if now < b.At { // only after ResetTime
		b.At = now
	}
	if b.Tokens == 0 {
		return false
	}
	b.Tokens--
	return true
}

// counter counts entries that are no records of their own.
type counter struct {
	Hash   [32]byte          `cbor:"1,keyasint"`
	Kind   string            `cbor:"2,keyasint"`
	Who    string            `cbor:"3,keyasint"`
	Text   string            `cbor:"4,keyasint"`
	Fields map[string]string `cbor:"5,keyasint"`
	Count  uint64            `cbor:"6,keyasint"`
	First  int64             `cbor:"7,keyasint"` // Unix ms
	Last   int64             `cbor:"8,keyasint"` // Unix ms
}

func (l *auditLog) add(e Entry) error {
	if !e.Coalesce {
		if err := l.flush(); err != nil {
			return err
		}
		l.w.LastSame = [32]byte{}
		return l.write(e)
	}
	now := l.t.now.UnixMilli()
	if len(l.w.Pending) > 0 && now-l.w.Pending[0].First > pendingWindow {
		if err := l.flush(); err != nil {
			return err
		}
	}
	h := hashEntry(&e)
	if h == l.w.LastSame || l.counted(h) || !l.w.Budget.take(now) {
		l.count(h, e, now)
		return nil
	}
	l.w.LastSame = h
	return l.write(e)
}

func (l *auditLog) counted(h [32]byte) bool {
	for i := range l.w.Pending {
		if l.w.Pending[i].Hash == h {
			return true
		}
	}
	return false
}

func (l *auditLog) count(h [32]byte, e Entry, now int64) {
	if !l.counted(h) && len(l.w.Pending) >= pendingMax {
		h, e = [32]byte{}, Entry{Kind: "others", Who: "various", Text: "more different attempts than are counted apart"}
	}
	for i := range l.w.Pending {
		if c := &l.w.Pending[i]; c.Hash == h {
			c.Count, c.Last = c.Count+1, now
			return
		}
	}
	// Cleaned as a record would be: an adversary may have chosen every byte.
	r := cleaned(&e)
	l.w.Pending = append(l.w.Pending, counter{Hash: h, Kind: r.Kind, Who: r.Who, Text: r.Text,
		Fields: r.Fields, Count: 1, First: now, Last: now})
}

// flush makes the counts records.
func (l *auditLog) flush() error {
	for _, c := range l.w.Pending {
		fields := map[string]string{}
		maps.Copy(fields, c.Fields)
		fields["repeated"] = strconv.FormatUint(c.Count, 10)
		fields["first"] = strconv.FormatInt(c.First, 10)
		fields["last"] = strconv.FormatInt(c.Last, 10)
		if err := l.write(Entry{Kind: c.Kind, Who: c.Who, Text: c.Text, Fields: fields}); err != nil {
			return err
		}
	}
	l.w.Pending = nil
	return nil
}

// hashEntry is equal for entries that would make the same record.
func hashEntry(e *Entry) [32]byte {
	b, err := encode(cleaned(e))
	if err != nil {
		panic(err) // only strings: a broken invariant
	}
	return sha256.Sum256(b)
}

// cleaned is e as its record would show it.
func cleaned(e *Entry) *bond.AuditRecord {
	raw := (&bond.AuditRecord{Kind: e.Kind, Who: e.Who, Text: e.Text, Fields: e.Fields}).Encode()
	_, r, err := bond.VerifyChain([][]byte{raw}, 0, [32]byte{})
	if err != nil {
		panic(err) // Encode makes what VerifyChain accepts: a broken invariant
	}
	return &r[0]
}
