package ui

import (
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
)

// TestArrange: records as a real hypervisor writes them become lines for people.
func TestArrange(t *testing.T) {
	op := "uid 999, process 7"
	of := func(session, command string, more ...string) map[string]string {
		f := map[string]string{"session": session, "command": command}
		for i := 0; i < len(more); i += 2 {
			f[more[i]] = more[i+1]
		}
		return f
	}
	records := []bond.AuditRecord{
		{Kind: "registration", Who: op, Text: "VM registered by its owner"},
		{Kind: "open", Who: op, Text: "session for pause opened", Fields: of("1", "pause")},
		{Kind: "refused", Who: op, Text: "cont refused: the automaton expects query-status", Fields: of("1", "pause", "class", "Refused", "hypercall", "cont")},
		{Kind: "open", Who: op, Text: "session for console opened", Fields: of("2", "console")}, // in between
		{Kind: "close", Who: op, Text: "pause: refused", Fields: of("1", "pause", "verdict", bond.VerdictRefused)},
		{Kind: "close", Who: op, Text: "console: done", Fields: of("2", "console", "verdict", bond.VerdictDone)},
		{Kind: "channel", Who: "hypervisor", Text: "console opened", Fields: map[string]string{"session": "2", "channel": "console"}},
		{Kind: "refused", Who: op, Text: "screendump refused: never allowed", Fields: map[string]string{"class": "Denied", "hypercall": "screendump", "repeated": "3"}},
		{Kind: "close", Who: op, Text: "policy session: refused: screendump: never allowed", Fields: map[string]string{"verdict": bond.VerdictRefused}},
		{Kind: "refused", Who: "hypervisor", Text: "console ended: tampered", Fields: map[string]string{"session": "2", "channel": "console"}},
		{Kind: "refused", Who: op, Text: "session for start refused: it runs already", Fields: map[string]string{"class": "Running"}},
		{Kind: "open", Who: op, Text: "session for status opened", Fields: of("1", "status", "delegate", "bob")}, // numbers begin again after a restart
		{Kind: "close", Who: op, Text: "status by delegate bob: done", Fields: of("1", "status", "delegate", "bob", "verdict", bond.VerdictDone)},
	}
	for i := range records {
		records[i].Seq = uint64(i)
	}
	receipts := map[uint64]*bond.Receipt{6: {Command: "console", AuditSeq: 6}, 99: {Command: "pause", AuditSeq: 99},
		11: {Command: "start", AuditSeq: 11, Verdict: bond.VerdictRefused}}
	var got []string
	for _, e := range arrange(records, receipts) {
		line := e.By + " " + e.Title
		if e.Refused {
			line += " !"
		}
		if e.Reading {
			line += " ?"
		}
		if e.Receipt != nil {
			line += " receipt"
		}
		got = append(got, line)
	}
	want := []string{
		"owner VM registered by its owner", "operator under your ticket for pause: cont refused: the automaton expects query-status !", "owner console: done receipt", "hypervisor console opened",
		"operator screendump refused: never allowed !", "operator policy session: refused: screendump: never allowed ?",
		"hypervisor console ended: tampered !", "owner session for start refused: it runs already ! receipt", "delegate status by delegate bob: done ?",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(receipts) != 1 {
		t.Errorf("%d receipts are left, want 1", len(receipts))
	}
}

// TestCut: a page gets the newest lines, and refused attempts from before, of a log of any
// length.
func TestCut(t *testing.T) {
	entries := func(n int) (out []entry) {
		for i := range n {
			out = append(out, entry{Seq: uint64(n - i), By: byOperator, Refused: (n-i)%4 == 0})
		}
		return out
	}
	for _, c := range []struct{ have, want int }{{0, 0}, {10, 10}, {11, 10}, {14, 11}, {400, 20}} {
		line := timeline{Entries: entries(c.have)}
		line.cut(10)
		if len(line.Entries) != c.want || line.Older != c.have-c.want {
			t.Errorf("of %d lines %d are there, %d are older; want %d", c.have, len(line.Entries), line.Older, c.want)
		}
		for i, e := range line.Entries {
			if i >= 10 && !e.Refused || i > 0 && e.Seq >= line.Entries[i-1].Seq {
				t.Errorf("line %d is %+v", i, e)
			}
		}
	}
}
