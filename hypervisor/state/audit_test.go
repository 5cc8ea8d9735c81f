package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
)

// kinds verifies the page's chain and lists the kinds of its records.
func kinds(t testing.TB, p *AuditPage) string {
	t.Helper()
	var out []string
	for _, r := range verified(t, p) {
		out = append(out, r.Kind)
	}
	return strings.Join(out, " ")
}

func verified(t testing.TB, p *AuditPage) []bond.AuditRecord {
	t.Helper()
	head, records, err := bond.VerifyChain(p.Records, p.From, p.Prev)
	if err != nil {
		t.Fatal(err)
	}
	if head != p.Head || p.Next != p.From+uint64(len(records)) || !p.More && head != p.End.Hash {
		t.Fatalf("page does not fit its records: %+v", p)
	}
	return records
}

func TestAuditPages(t *testing.T) {
	s, _ := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	for i := range 50 {
		if _, err := s.Append(vm, Entry{Kind: "call", Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var prev [32]byte
	pages := 0
	for from := uint64(0); ; pages++ {
		p, err := s.ReadAudit(vm, from, 500)
		if err != nil {
			t.Fatal(err)
		}
		verified(t, p)
		if p.Prev != prev || p.From != from || p.End.Seq != 51 {
			t.Fatalf("page %d: %+v", pages, p)
		}
		from, prev = p.Next, p.Head
		if !p.More {
			break
		}
	}
	if pages < 5 {
		t.Errorf("%d pages", pages)
	}
	for _, from := range []uint64{51, 52, 1 << 63} {
		p, err := s.ReadAudit(vm, from, 500)
		if err != nil || len(p.Records) != 0 || p.More || p.From != 51 {
			t.Errorf("from %d: %+v %v", from, p, err)
		}
	}
	if p, err := s.ReadAudit(vm, 0, 0); err != nil || len(p.Records) != 1 {
		t.Errorf("a page must carry one record at least: %v", err)
	}
}

func TestHostLog(t *testing.T) {
	s, _ := testStore(t, Options{})
	if p, err := s.ReadAudit(HostLog, 0, 100); err != nil || p.Next != 0 || p.More {
		t.Fatal(p, err)
	}
	h, err := s.Append(HostLog, Entry{Kind: "refused", Text: "no such VM", Coalesce: true})
	if err != nil || h.Seq != 1 {
		t.Fatal(h, err)
	}
}

func TestFloodOfRefusals(t *testing.T) {
	now := time.Unix(2_000_000_000, 0)
	s, _ := testStore(t, Options{Clock: func() time.Time { return now }})
	vm := addBond(t, s).Bond.VM()
	same := Entry{Kind: "refused", Who: "uid 5 pid 6", Text: "screendump", Coalesce: true}
	flood := func(n int, e func(i int) Entry) {
		t.Helper()
		err := s.Update(func(tx *Tx) error {
			for i := range n {
				if _, err := tx.Append(vm, e(i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	flood(1000, func(int) Entry { return same })
	now = now.Add(time.Second)
	p, err := s.ReadAudit(vm, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	rec := verified(t, p)
	if len(rec) != 3 || rec[2].Fields["repeated"] != "999" || rec[2].Text != "screendump" || rec[2].Fields["first"] != "2000000000000" {
		t.Fatalf("%+v", rec)
	}

	// All different: the budget goes, then only a few counts.
	flood(5000, func(i int) Entry {
		return Entry{Kind: "refused", Who: fmt.Sprintf("uid 5 pid %d", i), Text: "screendump", Coalesce: true}
	})
	if p, err = s.ReadAudit(vm, 3, 1<<20); err != nil {
		t.Fatal(err)
	}
	rec = verified(t, p)
	if len(rec) != budgetBurst-1+pendingMax+1 {
		t.Errorf("%d records", len(rec))
	}
	total := 0
	for _, r := range rec {
		n := 1
		if f := r.Fields["repeated"]; f != "" {
			_, _ = fmt.Sscan(f, &n)
		}
		total += n
	}
	if total != 5000 || rec[len(rec)-1].Kind != "others" {
		t.Errorf("%d attempts accounted for", total)
	}

	// For a day, with the owner's own records in between: growth is bounded.
	start := p.Next
	for range 24 {
		now = now.Add(time.Hour)
		flood(100, func(i int) Entry {
			return Entry{Kind: "refused", Text: strings.Repeat("x", i%7), Coalesce: i%50 != 0}
		})
	}
	if p, err = s.ReadAudit(vm, start, 1<<20); err != nil {
		t.Fatal(err)
	}
	verified(t, p)
	if n := p.Next - start; n > 24*(budgetBurst+2*pendingMax+4) {
		t.Errorf("%d records in a day", n)
	}
}

func TestFullLogDropsTheOldest(t *testing.T) {
	s, dir := testStore(t, Options{AuditBytes: 64 << 10})
	vm := addBond(t, s).Bond.VM()
	heads := map[uint64][32]byte{}
	for i := range 600 {
		h, err := s.Append(vm, Entry{Kind: "call", Text: strings.Repeat("x", 200), Fields: map[string]string{"n": fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		heads[h.Seq] = h.Hash
	}
	_ = s.Close()
	s = reopen(t, dir, Options{AuditBytes: 64 << 10})
	p, err := s.ReadAudit(vm, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	records := verified(t, p)
	size, dropped := 0, 0
	for i, r := range records {
		size += len(p.Records[i])
		if r.Kind == "dropped" {
			dropped++
		}
	}
	if p.First == 0 || p.From != p.First || size > 64<<10+400 || dropped == 0 {
		t.Errorf("first %d, from %d, %d bytes, %d dropped records", p.First, p.From, size, dropped)
	}
	// Heads from earlier still fit.
	if h := heads[p.First+10]; h != [32]byte{} {
		if q, err := s.ReadAudit(vm, p.First+10, 100); err != nil || q.Prev != h {
			t.Errorf("the chain is another one: %v", err)
		}
	}
	// An owner who missed records sees that the numbers do not continue.
	var chain *bond.ChainError
	if _, _, err := bond.VerifyChain(p.Records, 0, [32]byte{}); !errors.As(err, &chain) {
		t.Errorf("missing records go unnoticed: %v", err)
	}
}

func TestHugeAndUglyEntries(t *testing.T) {
	s, _ := testStore(t, Options{})
	vm := addBond(t, s).Bond.VM()
	fields := map[string]string{}
	for i := range 100 {
		fields[fmt.Sprint("\xff\x00", i)] = strings.Repeat("\xfe", 10000)
	}
	for _, c := range []bool{false, true} {
		e := Entry{Kind: strings.Repeat("k", 1000), Who: "\xff", Text: strings.Repeat("\x00", 1<<20), Fields: fields, Coalesce: c}
		for range 3 {
			if _, err := s.Append(vm, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, err := s.ReadAudit(vm, 0, 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(verified(t, p)); n != 6 {
		t.Errorf("%d records", n)
	}
}
