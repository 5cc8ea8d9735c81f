package ui

import (
	"cmp"
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

// timeline is the log as it was verified last, with what came since.
type timeline struct {
	Entries []entry `json:"entries"` // newest first, of those that were asked for
	Chain   chain   `json:"chain"`
	Damaged int     `json:"damaged,omitempty"` // stored receipts that do not open
	Older   int     `json:"older,omitempty"`   // lines that were asked for and left out
	Refused int     `json:"refused"`           // lines of refused attempts, everybody's
	Attack  *attack `json:"attack,omitempty"`  // the newest that is not the owner's own
}

// attack is a refused attempt, to be said aloud whatever is shown.
type attack struct {
	Seq   uint64 `json:"seq"`
	Title string `json:"title"`
}

// wanted is what a page wants to see of a time line.
type wanted struct {
	keep    func(*entry) bool
	looking bool // also who only looked
	most    int  // lines
}

// Lines of an answer: as many as a page draws at first, and as it can draw at all. Logs
// grow for years, with every look at them.
const (
	someEntries = 100
	maxEntries  = 5000
)

// shows are the choices of a page.
var shows = map[string]func(*entry) bool{
	"":        func(*entry) bool { return true },
	"refused": func(e *entry) bool { return e.Refused },
	"mine":    func(e *entry) bool { return e.By == byOwner },
	"others":  func(e *entry) bool { return e.By == byOperator || e.By == byDelegate },
}

// wantedOf reads what a request asks for; what makes no sense asks for what is usual.
func wantedOf(r *http.Request) wanted {
	q := r.URL.Query()
	a := wanted{keep: shows[q.Get("show")], looking: q.Get("looking") == "yes", most: someEntries}
	if a.keep == nil {
		a.keep = shows[""]
	}
	if n, err := strconv.Atoi(q.Get("most")); err == nil && n > 0 {
		a.most = min(n, maxEntries)
	}
	return a
}

// choose leaves what was asked for, newest first, and counts the rest. Attempts that were
// refused are counted whatever is asked for: nobody buries them under what is allowed.
func (t *timeline) choose(a wanted) {
	all := t.Entries
	t.Entries = []entry{}
	for i := range all {
		e := &all[i]
		if e.Refused {
			t.Refused++
		}
		if e.Refused && e.By != byOwner {
			t.Chain.Refused++
			if t.Attack == nil {
				t.Attack = &attack{e.Seq, e.Title}
			}
		}
		switch {
		case !a.keep(e) || e.Reading && !e.Refused && !a.looking:
		case len(t.Entries) < a.most:
			t.Entries = append(t.Entries, *e)
		default:
			t.Older++
		}
	}
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
	mu   sync.Mutex
	by   map[string]fetched       // by VM id
	turn map[string]chan struct{} // of who fetches; capacity 1
}

type fetched struct {
	log   *tenant.AuditLog
	chain chain
}

// begin waits until nobody else fetches a VM's log: each goes on from where the one before
// came to.
func (l *logs) begin(ctx context.Context, id string) (end func(), err error) {
	l.mu.Lock()
	if l.turn == nil {
		l.turn = map[string]chan struct{}{}
	}
	turn := l.turn[id]
	if turn == nil {
		turn = make(chan struct{}, 1)
		l.turn[id] = turn
	}
	l.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// before is the log that the next fetch goes on from: one that holds together.
func (f *fetched) before() *tenant.AuditLog {
	if f.chain.State != chainWhole {
		return nil
	}
	return f.log
}

// States of a chain.
const (
	chainUnchecked = "unchecked"
	chainWhole     = "whole"
	chainBroken    = "broken"
)

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
	t.choose(wantedOf(r))
	answer(w, t)
}

// audit fetches what is new of the log, verifies it, and answers with the time line. It is
// a command of its own: the hypervisor records that the owner looked.
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
	end, err := s.logs.begin(r.Context(), vm.ID)
	if err != nil {
		return // nobody waits any more
	}
	defer end()
	f, _ := s.logs.get(vm.ID)
	log, err := s.owner.AuditAfter(r.Context(), name, f.before(), tenant.Quiet{})
	switch {
	case err == nil:
		f = fetched{log, chain{State: chainWhole, At: s.opts.Now().Unix(), Records: len(log.Records), Receipts: log.Receipts, Head: hex.EncodeToString(log.Head[:])}}
	case fail.CodeOf(err) == fail.Forged:
		// What was shown before is no better than its log: nothing of it stays whole.
		f = fetched{log, chain{State: chainBroken, At: s.opts.Now().Unix(), Error: err.Error(), Hint: fail.HintOf(err), Class: fail.CodeOf(err).String()}}
		if log != nil {
			f.chain.Records = len(log.Records)
		}
	default: // not reached, or busy: what was verified before stands
		f.chain.Error, f.chain.Hint, f.chain.Class = err.Error(), fail.HintOf(err), fail.CodeOf(err).String()
		if f.chain.State == "" {
			f.chain.State = chainUnchecked
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
		f.chain.State = chainUnchecked
	}
	t := &timeline{Chain: f.chain, Damaged: damaged}
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
	}
	for _, r := range bySeq { // what is left stands in no record that was fetched
		t.Entries = append(t.Entries, entry{
			ID: "r" + hex.EncodeToString(r.Nonce[:6]), At: r.HostTime * 1000, Kind: "receipt", By: byOwner, Title: titleOf(r.Command, r.Verdict, r.Reason),
			Refused: r.Verdict == bond.VerdictRefused, Reading: tenant.Looks(r.Command), Seq: r.AuditSeq, Receipt: receiptOf(r),
		})
	}
	slices.SortStableFunc(t.Entries, func(a, b entry) int { return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(b.At, a.At)) })
	return t, nil
}
