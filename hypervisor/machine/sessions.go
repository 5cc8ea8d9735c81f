package machine

import (
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
)

// sessionTail is how many of the last audit records are searched for sessions
// that a restart cut off. Sessions that change the VM exclude each other, so
// an open one is always near the end.
const sessionTail = 4096

// reportSessions writes a closing record for every session that was open when
// the daemon ended without closing it.
func (m *Machine) reportSessions() error {
	var from uint64
	err := m.store.View(func(tx *state.Tx) error {
		head, err := tx.AuditHead(m.id)
		if head.Seq > sessionTail {
			from = head.Seq - sessionTail
		}
		return err
	})
	if err != nil {
		return err
	}
	open := map[string]bond.AuditRecord{}
	var order []string
	for {
		var page *state.AuditPage
		err := m.store.View(func(tx *state.Tx) (err error) {
			page, err = tx.ReadAudit(m.id, from, chunkBytes)
			return err
		})
		if err != nil {
			return err
		}
		_, records, err := bond.VerifyChain(page.Records, page.From, page.Prev)
		if err != nil {
			return err
		}
		for _, r := range records {
			switch id := r.Fields["session"]; r.Kind {
			case "open":
				open[id] = r
				order = append(order, id)
			case "close":
				delete(open, id)
			}
		}
		if !page.More {
			break
		}
		from = page.Next
	}
	for _, id := range order {
		r, ok := open[id]
		if !ok {
			continue
		}
		delete(open, id)
		_, err := m.store.Append(m.id, state.Entry{Kind: "close", Who: "hypervisor",
			Text:   r.Fields["command"] + ": incomplete: the daemon was restarted during the session",
			Fields: map[string]string{"session": id, "verdict": "incomplete", "command": r.Fields["command"]}})
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
