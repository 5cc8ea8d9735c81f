package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/uvbond/uvbond/bond"
)

// logWire is the state of one audit log.
type logWire struct {
	Next      uint64    `cbor:"1,keyasint"` // number of the next record
	Head      [32]byte  `cbor:"2,keyasint"` // chain value after the last
	First     uint64    `cbor:"3,keyasint"` // oldest record kept
	FirstPrev [32]byte  `cbor:"4,keyasint"` // chain value before it
	Bytes     int64     `cbor:"5,keyasint"` // of the records kept
	Budget    budget    `cbor:"6,keyasint"`
	Pending   []counter `cbor:"7,keyasint"`
	LastSame  [32]byte  `cbor:"8,keyasint"` // hash of the last record if it was coalesced
}

// Append adds entries to the log of vm, or to HostLog, and returns its new end.
func (t *Tx) Append(vm bond.VMID, entries ...Entry) (Head, error) {
	w, err := t.log(vm)
	if err != nil {
		return Head{}, err
	}
	if len(entries) == 0 {
		return Head{w.Next, w.Head}, nil
	}
	b, err := t.tx.Bucket(bucketAudit).CreateBucketIfNotExists(vm[:])
	if err != nil {
		return Head{}, fmt.Errorf("state: audit log of %s: %w", vm, err)
	}
	// Records only ever come at the end: do not leave half of each page empty.
	b.FillPercent = 0.95
	l := &auditLog{t: t, vm: vm, b: b, w: w}
	for _, e := range entries {
		if err := l.add(e); err != nil {
			return Head{}, err
		}
	}
	return l.save()
}

// FlushAudit turns the counts of vm's log into records and returns its end.
func (t *Tx) FlushAudit(vm bond.VMID) (Head, error) {
	w, err := t.log(vm)
	if err != nil || len(w.Pending) == 0 {
		return Head{w.Next, w.Head}, err
	}
	l := &auditLog{t: t, vm: vm, b: t.tx.Bucket(bucketAudit).Bucket(vm[:]), w: w}
	if l.b == nil {
		return Head{}, fmt.Errorf("%w: audit log of %s is missing", ErrCorrupt, vm)
	}
	if err := l.flush(); err != nil {
		return Head{}, err
	}
	return l.save()
}

// AuditHead returns the end of vm's log.
func (t *Tx) AuditHead(vm bond.VMID) (Head, error) {
	w, err := t.log(vm)
	return Head{w.Next, w.Head}, err
}

func (t *Tx) log(vm bond.VMID) (w logWire, err error) {
	if vm != HostLog {
		if err := t.known(vm); err != nil {
			return w, err
		}
	}
	found, err := t.get(bucketLogs, vm[:], &w)
	if err == nil && !found {
		w.Budget = budget{Tokens: budgetBurst, At: t.now.UnixMilli()}
	}
	return w, err
}

// forgetLog removes the log of a bond that is being deleted.
func (t *Tx) forgetLog(vm bond.VMID) error {
	if t.tx.Bucket(bucketAudit).Bucket(vm[:]) != nil {
		if err := t.tx.Bucket(bucketAudit).DeleteBucket(vm[:]); err != nil {
			return fmt.Errorf("state: delete audit log of %s: %w", vm, err)
		}
	}
	return t.delete(bucketLogs, vm[:])
}

// auditLog is one log during one transaction.
type auditLog struct {
	t  *Tx
	vm bond.VMID
	b  *bolt.Bucket
	w  logWire
}

// write adds one record, whatever the budget says.
func (l *auditLog) write(e Entry) error {
	rec := (&bond.AuditRecord{Seq: l.w.Next, Time: l.t.now.UnixMilli(), Prev: l.w.Head,
		Kind: e.Kind, Who: e.Who, Text: e.Text, Fields: e.Fields}).Encode()
	l.w.Head = bond.HashRecord(l.w.Head, rec)
	key := be64(l.w.Next)
	plain := slices.Concat(l.w.Head[:], rec)
	if err := l.b.Put(key, l.t.s.seal.seal(bucketAudit, slices.Concat(l.vm[:], key), plain)); err != nil {
		return fmt.Errorf("state: append to audit log of %s: %w", l.vm, err)
	}
	l.w.Next++
	l.w.Bytes += int64(len(rec))
	return nil
}

func (l *auditLog) save() (Head, error) {
	if err := l.shrink(); err != nil {
		return Head{}, err
	}
	return Head{l.w.Next, l.w.Head}, l.t.put(bucketLogs, l.vm[:], &l.w)
}

// shrink drops the oldest records of a log above its cap and says so in the log.
func (l *auditLog) shrink() error {
	limit := l.t.s.o.AuditBytes
	if l.vm == HostLog {
		limit = l.t.s.o.HostBytes
	}
	if l.w.Bytes <= limit {
		return nil
	}
	from := l.w.First
	for l.w.Bytes > limit-limit/64 && l.w.First+1 < l.w.Next {
		key := be64(l.w.First)
		hash, rec, err := l.t.record(l.b, l.vm, key)
		if err != nil {
			return err
		}
		if err := l.b.Delete(key); err != nil {
			return fmt.Errorf("state: shrink audit log of %s: %w", l.vm, err)
		}
		l.w.FirstPrev = hash
		l.w.First++
		l.w.Bytes -= int64(len(rec))
	}
	return l.write(Entry{Kind: "dropped", Who: "hypervisor", Text: "the log is full: the oldest records were dropped",
		Fields: map[string]string{"from": strconv.FormatUint(from, 10), "to": strconv.FormatUint(l.w.First-1, 10)}})
}

// record reads one record and the chain value after it.
func (t *Tx) record(b *bolt.Bucket, vm bond.VMID, key []byte) (hash [32]byte, rec []byte, err error) {
	sealed := b.Get(key)
	if sealed == nil {
		return hash, nil, fmt.Errorf("%w: audit log of %s lacks record %d", ErrCorrupt, vm, binary.BigEndian.Uint64(key))
	}
	plain, err := t.s.seal.open(bucketAudit, slices.Concat(vm[:], key), sealed)
	if err != nil {
		return hash, nil, err
	}
	if len(plain) < len(hash) {
		return hash, nil, fmt.Errorf("%w: audit record %x is short", ErrCorrupt, key)
	}
	return [32]byte(plain[:32]), plain[32:], nil
}

// ReadAudit returns records of vm's log (or HostLog) from number from on, as
// many as fit maxBytes and at least one if there is any. Records that were
// dropped are skipped: see AuditPage.From. Counts that are not records yet are
// in it only when the transaction is an Update.
func (t *Tx) ReadAudit(vm bond.VMID, from uint64, maxBytes int) (*AuditPage, error) {
	if t.tx.Writable() {
		if _, err := t.FlushAudit(vm); err != nil {
			return nil, err
		}
	}
	w, err := t.log(vm)
	if err != nil {
		return nil, err
	}
	from = min(max(from, w.First), w.Next)
	p := &AuditPage{From: from, Next: from, First: w.First, End: Head{w.Next, w.Head}}
	b := t.tx.Bucket(bucketAudit).Bucket(vm[:])
	if b == nil {
		if w.Next != 0 {
			return nil, fmt.Errorf("%w: audit log of %s is missing", ErrCorrupt, vm)
		}
		return p, nil
	}
	p.Prev = w.FirstPrev
	if from > w.First {
		if p.Prev, _, err = t.record(b, vm, be64(from-1)); err != nil {
			return nil, err
		}
	}
	p.Head = p.Prev
	for size := 0; p.Next < w.Next; p.Next++ {
		hash, rec, err := t.record(b, vm, be64(p.Next))
		if err != nil {
			return nil, err
		}
		if size += len(rec); size > maxBytes && len(p.Records) > 0 {
			break
		}
		p.Records, p.Head = append(p.Records, bytes.Clone(rec)), hash
	}
	p.More = p.Next < w.Next
	return p, nil
}
