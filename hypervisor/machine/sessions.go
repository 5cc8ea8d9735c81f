package machine

import (
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// sessionTail is how many of the last audit records are searched for sessions
// that a restart cut off. Sessions that change the VM exclude each other, so
// an open one is always near the end.
const sessionTail = 4096

// cutSession is one that was open when the daemon ended without closing it.
type cutSession struct {
	id, command string
	launched    bool // it had begun to launch the VM
}

// cutSessions finds the sessions that an earlier daemon opened and did not close.
func (m *Machine) cutSessions() ([]cutSession, error) {
	var from uint64
	err := m.store.View(func(tx *state.Tx) error {
		head, err := tx.AuditHead(m.id)
		if head.Seq > sessionTail {
			from = head.Seq - sessionTail
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var open []cutSession
	for {
		var page *state.AuditPage
		err := m.store.View(func(tx *state.Tx) (err error) {
			page, err = tx.ReadAudit(m.id, from, chunkBytes)
			return err
		})
		if err != nil {
			return nil, err
		}
		_, records, err := bond.VerifyChain(page.Records, page.From, page.Prev)
		if err != nil {
			return nil, err
		}
		for i := range records {
			open = followSessions(open, &records[i])
		}
		if !page.More {
			return open, nil
		}
		from = page.Next
	}
}

// followSessions takes one more audit record into the list of open sessions.
func followSessions(open []cutSession, r *bond.AuditRecord) []cutSession {
	id := r.Fields["session"]
	n := slices.IndexFunc(open, func(s cutSession) bool { return s.id == id })
	switch {
	case r.Kind == "open":
		return append(open, cutSession{id: id, command: r.Fields["command"]})
	case n < 0:
	case r.Kind == "call" && r.Fields["hypercall"] == qmp.CmdLaunch:
		open[n].launched = true
	case r.Kind == "close":
		return slices.Delete(open, n, n+1)
	}
	return open
}

// reportSessions writes a closing record for every session that was cut off.
func (m *Machine) reportSessions(cut []cutSession) error {
	for _, s := range cut {
		_, err := m.store.Append(m.id, state.Entry{Kind: "close", Who: "hypervisor",
			Text:   s.command + ": incomplete: the daemon was restarted during the session",
			Fields: map[string]string{"session": s.id, "verdict": "incomplete", "command": s.command}})
		if err != nil {
			return err
		}
	}
	return nil
}

// auditChunk is a page of the log for its owner. Its head is the chain value
// after its own last record, so that the owner can verify chunk by chunk.
func auditChunk(p *state.AuditPage) *bond.AuditChunk {
	head := p.Prev
	for _, r := range p.Records {
		head = bond.HashRecord(head, r)
	}
	return &bond.AuditChunk{From: p.From, Records: p.Records, Head: head, Next: p.Next, More: p.More}
}
