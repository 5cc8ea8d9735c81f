package ui

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
)

// Who did what a line of the time line tells.
const (
	byOwner      = "owner"
	byDelegate   = "delegate"
	byOperator   = "operator"
	byHypervisor = "hypervisor"
	byGuest      = "guest"
)

// entry is one line of the time line: a record of the audit log, a session of
// several of them, or a receipt that the log does not reach yet.
type entry struct {
	ID      string            `json:"id"`
	At      int64             `json:"at"` // Unix milliseconds, the host's clock
	Kind    string            `json:"kind"`
	By      string            `json:"by"`
	Who     string            `json:"who,omitempty"` // as the kernel attested it
	Title   string            `json:"title"`
	Refused bool              `json:"refused"`
	Reading bool              `json:"reading,omitempty"` // only looked at log, console or state
	Seq     uint64            `json:"seq"`
	Count   string            `json:"count,omitempty"` // how often, where the log counts instead of repeating
	Fields  map[string]string `json:"fields,omitempty"`
	Steps   []step            `json:"steps,omitempty"`
	Receipt *receipt          `json:"receipt,omitempty"`
	InLog   bool              `json:"in_log"`
}

// step is a record within a session.
type step struct {
	Seq     uint64            `json:"seq"`
	At      int64             `json:"at"`
	Kind    string            `json:"kind"`
	Text    string            `json:"text"`
	Refused bool              `json:"refused"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// arrange makes one entry of each session's records. Receipts that belong to one
// are taken out of the map.
func arrange(records []bond.AuditRecord, receipts map[uint64]*bond.Receipt) []entry {
	var out []entry
	open := map[string]int{} // session number to entry
	for i := range records {
		r := &records[i]
		session := sessionOf(r)
		n, known := open[session]
		if session == "" || r.Kind == "open" || !known {
			out = append(out, entryOf(r))
			n = len(out) - 1
			if session != "" {
				open[session] = n
			}
		} else {
			out[n].add(r)
		}
		rec := receipts[r.Seq+1] // given when this was the newest record
		switch {
		case r.Kind == "close":
			delete(open, session)
			if session == "" {
				continue
			}
		case r.Kind == "refused" && session == "" && rec != nil && rec.Verdict == bond.VerdictRefused:
			out[n].By = byOwner // a command of the owner's, which could not be: start while it runs
		default:
			continue
		}
		if rec != nil {
			out[n].Receipt = receiptOf(rec)
			delete(receipts, r.Seq+1)
		}
	}
	return out
}

// sessionOf is the number of the ticket's session that a record belongs to, or "". What
// becomes of a channel after its session bears the number too, and stands for itself.
func sessionOf(r *bond.AuditRecord) string {
	if r.Fields["command"] == "" {
		return ""
	}
	return r.Fields["session"]
}

func entryOf(r *bond.AuditRecord) entry {
	e := entry{
		ID: "a" + hex.EncodeToString(r.Prev[:3]) + "-" + time.UnixMilli(r.Time).UTC().Format("150405.000"), At: r.Time, Kind: r.Kind, Who: r.Who,
		By: actor(r), Title: r.Text, Refused: wasRefused(r), Seq: r.Seq, Count: r.Fields["repeated"], Fields: r.Fields, InLog: true,
	}
	switch {
	case sessionOf(r) != "":
		e.Kind, e.Title = "command", r.Fields["command"]
		e.Reading = tenant.Looks(e.Title)
		e.add(r)
	case r.Kind == "open" || r.Kind == "close":
		// A session without a ticket. What was refused in it, and what changed the VM,
		// has records of its own.
		e.Refused, e.Reading = false, true
	}
	return e
}

// add puts a record into its session's entry.
func (e *entry) add(r *bond.AuditRecord) {
	e.Steps = append(e.Steps, step{r.Seq, r.Time, r.Kind, r.Text, wasRefused(r), r.Fields})
	e.At, e.Seq = r.Time, r.Seq
	e.Refused = e.Refused || wasRefused(r)
	switch {
	case r.Kind == "refused" && e.By == byOwner:
		// The owner gave a ticket, and the server sent something else under it.
		e.By, e.Title = byOperator, "under your ticket for "+r.Fields["command"]+": "+r.Text
	case r.Kind == "close" && e.By != byOperator:
		e.Title = r.Text
	}
}

func titleOf(command, verdict, reason string) string {
	if reason == "" {
		return command + ": " + verdict
	}
	return command + ": " + verdict + ": " + reason
}

// wasRefused tells attempts that the hypervisor turned down.
func wasRefused(r *bond.AuditRecord) bool {
	return r.Kind == "refused" || r.Fields["verdict"] == bond.VerdictRefused
}

// actor tells on whose account something happened. The management server's process
// sends everybody's hypercalls: what tells the owner's from an operator's is the
// ticket, and only the ticket's sessions have a command's name.
func actor(r *bond.AuditRecord) string {
	switch {
	case r.Fields["delegate"] != "":
		return byDelegate
	case r.Who == byHypervisor || r.Who == byGuest || r.Who == byOwner:
		return r.Who
	case r.Fields["command"] != "" || r.Kind == "registration":
		return byOwner
	case strings.Contains(r.Who, "uid"):
		return byOperator
	}
	return byHypervisor
}
