package ui

import (
	"cmp"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
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

// timeline is the log as it was verified last, with what came since.
type timeline struct {
	Entries []entry `json:"entries"` // newest first
	Chain   chain   `json:"chain"`
	Damaged int     `json:"damaged,omitempty"` // stored receipts that do not open
	Older   int     `json:"older,omitempty"`   // lines that were left out
}

// maxEntries is how many lines a page gets. Logs grow for years, with every look at them.
const maxEntries = 5000

// cut leaves out the oldest lines. Attempts that were refused stay longer: nobody buries
// them under what is allowed.
func (t *timeline) cut(most int) {
	all := t.Entries
	if len(all) <= most {
		return
	}
	t.Entries = all[:most:most]
	for _, e := range all[most:] {
		if len(t.Entries) < 2*most && e.Refused && e.By != byOwner {
			t.Entries = append(t.Entries, e)
		}
	}
	t.Older = len(all) - len(t.Entries)
}

// chain tells what is known of the audit chain.
type chain struct {
	State    string `json:"state"` // unchecked, whole or broken
	At       int64  `json:"at,omitempty"`
	Records  int    `json:"records"`
	Receipts int    `json:"receipts"` // stored receipts that stand in it
	Head     string `json:"head,omitempty"`
	Refused  int    `json:"refused"`
	Error    string `json:"error,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Class    string `json:"class,omitempty"`
}

// logs keeps the audit logs that were fetched and verified last.
type logs struct {
	mu sync.Mutex
	by map[string]fetched // by VM id
}

type fetched struct {
	log   *tenant.AuditLog
	chain chain
}

func (l *logs) get(id string) (fetched, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.by[id]
	return f, ok
}

func (l *logs) put(id string, f fetched) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]fetched{}
	}
	l.by[id] = f
}

// timeline answers from what is here already.
func (s *Server) timeline(w http.ResponseWriter, r *http.Request, _ *session) {
	t, err := s.timelineOf(r.PathValue("name"))
	if err != nil {
		s.failed(w, err)
		return
	}
	answer(w, t)
}

// audit fetches the log, verifies it, and answers with the time line. It is a
// command of its own: the hypervisor records that the owner looked.
func (s *Server) audit(w http.ResponseWriter, r *http.Request, _ *session) {
	var in struct{}
	if !s.read(w, r, &in) {
		return
	}
	name := r.PathValue("name")
	vm, err := s.bonded(name)
	if err != nil {
		s.failed(w, err)
		return
	}
	log, err := s.owner.Audit(r.Context(), name, tenant.Quiet{})
	f, _ := s.logs.get(vm.ID)
	switch {
	case err == nil:
		f = fetched{log, chain{State: "whole", At: s.opts.Now().Unix(), Records: len(log.Records), Receipts: log.Receipts, Head: hex.EncodeToString(log.Head[:])}}
	case fail.CodeOf(err) == fail.Forged:
		// What was shown before is no better than its log: nothing of it stays whole.
		f = fetched{log, chain{State: "broken", At: s.opts.Now().Unix(), Error: err.Error(), Hint: fail.HintOf(err), Class: fail.CodeOf(err).String()}}
		if log != nil {
			f.chain.Records = len(log.Records)
		}
	default: // not reached, or busy: what was verified before stands
		f.chain.Error, f.chain.Hint, f.chain.Class = err.Error(), fail.HintOf(err), fail.CodeOf(err).String()
		if f.chain.State == "" {
			f.chain.State = "unchecked"
		}
	}
	s.logs.put(vm.ID, f)
	s.timeline(w, r, nil)
}

func (s *Server) timelineOf(name string) (*timeline, error) {
	vm, err := s.owner.Store.VM(name)
	if err != nil {
		return nil, err
	}
	list, damaged, err := s.owner.Receipts(name)
	if err != nil {
		return nil, err
	}
	f, ok := s.logs.get(vm.ID)
	if !ok {
		f.chain.State = "unchecked"
	}
	t := &timeline{Chain: f.chain, Damaged: damaged, Entries: []entry{}}
	bySeq := map[uint64]*bond.Receipt{}
	for i := range list {
		if o := list[i].Opened; o != nil {
			bySeq[o.AuditSeq] = o
		} else {
			t.Damaged++
		}
	}
	if f.log != nil {
		t.Entries = arrange(f.log.Records, bySeq)
		for i := range t.Entries {
			if t.Entries[i].Refused && t.Entries[i].By != byOwner {
				t.Chain.Refused++
			}
		}
	}
	for _, r := range bySeq { // what is left stands in no record that was fetched
		t.Entries = append(t.Entries, entry{
			ID: "r" + hex.EncodeToString(r.Nonce[:6]), At: r.HostTime * 1000, Kind: "receipt", By: byOwner, Title: titleOf(r.Command, r.Verdict, r.Reason),
			Refused: r.Verdict == bond.VerdictRefused, Reading: reading(r.Command), Seq: r.AuditSeq, Receipt: receiptOf(r),
		})
	}
	slices.SortStableFunc(t.Entries, func(a, b entry) int { return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(b.At, a.At)) })
	t.cut(maxEntries)
	return t, nil
}

func reading(command string) bool {
	return command == tenant.Audit || command == tenant.Log || command == tenant.Status
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
		e.Reading = reading(e.Title)
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
