package ui

import (
	"net/http/httptest"
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

// TestPaged: a page gets the newest lines of what it asks for, of a log of any length, and
// refused attempts are counted whatever it asks for.
func TestPaged(t *testing.T) {
	const have = 20_000
	log := func() *timeline {
		t := &timeline{}
		for i := range have {
			e := entry{Seq: uint64(have - i), By: byOwner, Title: "status: done", Reading: true}
			switch e.Seq % 1000 {
			case 7:
				e = entry{Seq: e.Seq, By: byOperator, Refused: true, Title: "screendump refused"}
			case 8:
				e = entry{Seq: e.Seq, By: byOwner, Refused: true, Title: "start refused", Reading: true}
			case 9:
				e = entry{Seq: e.Seq, By: byDelegate, Title: "reset: done"}
			}
			t.Entries = append(t.Entries, e)
		}
		return t
	}
	for query, want := range map[string]struct{ lines, older int }{
		"":                              {60, 0},
		"most=7":                        {7, 53},
		"show=refused":                  {40, 0},
		"show=mine":                     {20, 0},
		"show=others&most=-1":           {40, 0},
		"show=no-such&most=x":           {60, 0},
		"looking=yes":                   {someEntries, have - someEntries},
		"looking=yes&most=999999999999": {maxEntries, have - maxEntries},
		"looking=yes&show=mine&most=1":  {1, have - 40 - 1},
	} {
		line := log()
		line.choose(wantedOf(httptest.NewRequest("GET", "/?"+query, nil)))
		if len(line.Entries) != want.lines || line.Older != want.older {
			t.Errorf("%q: %d lines, %d are older; want %+v", query, len(line.Entries), line.Older, want)
		}
		if line.Refused != 40 || line.Chain.Refused != 20 || line.Attack == nil || line.Attack.Seq != have-1000+7 {
			t.Errorf("%q: %d refused, %d of others, the newest %+v", query, line.Refused, line.Chain.Refused, line.Attack)
		}
		for i := range line.Entries {
			if i > 0 && line.Entries[i].Seq >= line.Entries[i-1].Seq {
				t.Fatalf("%q: line %d is not older than the one before", query, i)
			}
		}
	}
}
