package tenant

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// AuditLog is a verified audit chain.
type AuditLog struct {
	VM       string
	Records  []bond.AuditRecord
	Head     [32]byte
	Receipts int // stored receipts whose audit head stands in the chain

	heads [][32]byte // heads[n] is the chain value after n records
}

// maxAudit bounds what one audit fetches, records.
const maxAudit = 1 << 20

// chain follows the audit chain while it is fetched.
type chain struct {
	log  AuditLog
	head [32]byte
}

// Audit fetches the audit log of a VM from its beginning, verifies the chain,
// and checks that every stored receipt and the head of the last audit stand in
// it: a hypervisor whose state was set back, or rewritten, is found out.
func (o *Owner) Audit(ctx context.Context, name string, rep Reporter) (*AuditLog, error) {
	return o.AuditAfter(ctx, name, nil, rep)
}

// AuditAfter does what Audit does, and fetches only the records that came after a log that
// was verified before; nil: all. That log stays as it is. What does not continue it is
// found out as by Audit: each record is chained to the ones before.
func (o *Owner) AuditAfter(ctx context.Context, name string, before *AuditLog, rep Reporter) (*AuditLog, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer op.bond.Wipe()
	c := after(name, before)
	rep.Begin("audit "+name, 0)
	defer rep.End()
	for more := true; more; {
		if more, err = o.auditChunks(ctx, op, c); err != nil {
			return nil, err
		}
		if len(c.log.Records) > maxAudit {
			return nil, fail.New(fail.Other, "", "the audit log of %q has more than %d records", name, maxAudit)
		}
	}
	c.log.Head = c.head
	if err := o.compare(op.vm, c); err != nil {
		return &c.log, err
	}
	_, err = o.update(op.vm, func(v *store.VM) {
		if n := uint64(len(c.log.Records)); n >= v.AuditSeq {
			v.AuditSeq, v.AuditHead = n, bytes.Clone(c.head[:])
		}
	})
	return &c.log, err
}

// after begins at the end of a log. The slices are clipped, so that two that go on from the
// same log do not write into each other's.
func after(name string, before *AuditLog) *chain {
	c := &chain{log: AuditLog{VM: name, heads: make([][32]byte, 1)}}
	if before != nil && len(before.heads) == len(before.Records)+1 {
		c.log.Records, c.log.heads, c.head = slices.Clip(before.Records), slices.Clip(before.heads), before.Head
	}
	return c
}

// auditChunks runs one audit command and takes its chunks.
func (o *Owner) auditChunks(ctx context.Context, op *opened, c *chain) (more bool, err error) {
	t, err := o.sealTicket(op.bond, Audit, nil, nil)
	if err != nil {
		return false, err
	}
	from := uint64(len(c.log.Records))
	out, _, err := o.relay(ctx, op, t, &client.Params{From: &from})
	if err != nil {
		return false, err
	}
	if len(out.Chunks) == 0 {
		return false, fail.New(fail.Unknown, "tell the provider", "the hypervisor executed audit (verified), but the server withholds the records of %q", op.vm.Name)
	}
	for _, blob := range out.Chunks {
		chunk := new(bond.AuditChunk)
		if err := bond.Open(op.bond, blob, chunk); err != nil || chunk.Nonce != t.nonce {
			return false, forged("a part of the audit log does not open, or is of another ticket")
		}
		if chunk.From != uint64(len(c.log.Records)) {
			return false, forged("a part of the audit log is missing: record %d was expected, %d came", len(c.log.Records), chunk.From)
		}
		if err := c.add(chunk); err != nil {
			return false, err
		}
		more = chunk.More && len(chunk.Records) > 0
	}
	return more, nil
}

func (c *chain) add(chunk *bond.AuditChunk) error {
	records, err := chunk.Verify(c.head)
	if err != nil {
		return fail.Wrap(err, fail.Forged, "the hypervisor's record was rewritten: do not trust this host any more", "THE AUDIT CHAIN IS BROKEN")
	}
	for _, raw := range chunk.Records {
		c.head = bond.HashRecord(c.head, raw)
		c.log.heads = append(c.log.heads, c.head)
	}
	c.log.Records = append(c.log.Records, records...)
	return nil
}

// at returns the chain value after n records.
func (c *chain) at(n uint64) ([32]byte, bool) {
	if n >= uint64(len(c.log.heads)) {
		return [32]byte{}, false
	}
	return c.log.heads[n], true
}

// compare looks for the last audit's head and for every stored receipt in the
// chain. A receipt newer than the end of what was fetched is left for next time.
func (o *Owner) compare(vm *store.VM, c *chain) error {
	now, err := o.Store.VM(vm.Name)
	if err != nil {
		return err
	}
	if now.AuditSeq > 0 {
		if head, ok := c.at(now.AuditSeq); !ok || !bytes.Equal(head[:], now.AuditHead) {
			return rewritten("it does not continue the log that was verified before (%d records then)", now.AuditSeq)
		}
	}
	list, _, err := o.Receipts(vm.Name)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.Opened == nil {
			continue
		}
		head, ok := c.at(s.Opened.AuditSeq)
		if !ok {
			if c.later(s.Opened) {
				continue
			}
			return rewritten("the receipt of %s (%s) speaks of record %d, and the log ends before", s.Opened.Command, time.Unix(s.Opened.HostTime, 0).UTC().Format(time.DateTime), s.Opened.AuditSeq)
		}
		if head != s.Opened.AuditHead {
			return rewritten("the receipt of %s (%s) was given for another log", s.Opened.Command, time.Unix(s.Opened.HostTime, 0).UTC().Format(time.DateTime))
		}
		c.log.Receipts++
	}
	return nil
}

// later tells a receipt that was given after the newest record fetched: the one
// of this audit itself, or of a command that ran beside it.
func (c *chain) later(r *bond.Receipt) bool {
	n := len(c.log.Records)
	return n == 0 || r.HostTime*1000+999 >= c.log.Records[n-1].Time
}

func rewritten(format string, args ...any) error {
	e := fail.New(fail.Forged, "the hypervisor's state was set back or rewritten: ask the provider, and do not trust this host before that is explained", format, args...)
	e.Text = "THE AUDIT LOG WAS REWRITTEN: " + e.Text
	return e
}
