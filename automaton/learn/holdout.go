package learn

import "github.com/uvbond/uvbond/automaton"

// Verdict is what an automaton makes of a session that it was not learned from.
type Verdict struct {
	Session  string `json:"session"`
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason,omitempty"` // of a refusal
	Elided   int    `json:"elided,omitempty"` // hypercalls that the recording left out, which nothing can be held against
}

// Hold holds a session against a machine: every hypercall accepted as the gate
// would, and ended where it may end.
func Hold(m *automaton.Machine, s Session) Verdict {
	v := Verdict{Session: s.Name, Elided: s.Recording.Elided()}
	t := m.Trace(s.Recording.Calls)
	switch step := t.Refused(); {
	case step != nil:
		v.Reason = step.Refusal.Error()
	case !t.Done:
		v.Reason = "it may not end there"
	default:
		v.Accepted = true
	}
	return v
}

// maxLeaveOneOut is how many pairs of steps LeaveOneOut compares, all in all.
const maxLeaveOneOut = 1 << 26

// LeaveOneOut learns from all sessions but one, for each of them, and holds that
// one against what was learned. It returns nil for fewer than two sessions, and
// verdicts on the first of them only where all would take too long.
func LeaveOneOut(name string, sessions []Session) []Verdict {
	if len(sessions) < 2 {
		return nil
	}
	var out []Verdict
	cells := 0
	for i, s := range sessions {
		if cells > maxLeaveOneOut {
			break
		}
		others := append(append([]Session{}, sessions[:i]...), sessions[i+1:]...)
		l, err := Learn(name, others)
		if err != nil {
			out = append(out, Verdict{Session: s.Name, Reason: err.Error()})
			cells += maxCells
			continue
		}
		cells += l.cells
		out = append(out, Hold(l.Machine, s))
	}
	return out
}
