package hub

import (
	"slices"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// attach makes a viewer of a client, or says why not.
func (h *Hub) attach(v *viewer, a console.Attach) *console.End {
	next, end := h.begin(a.Start)
	h.mu.Lock()
	defer h.mu.Unlock()
	s, resumed := h.session(a.Session)
	old := s.viewer
	if old == nil && len(h.viewers) >= console.MaxViewers {
		return &console.End{Why: console.Crowded}
	}
	h.remember(s)
	h.lastID++
	v.session, v.id, v.name, v.size, v.since = s, h.lastID, a.Name, a.Size, time.Now()
	v.next, v.list, v.taken = next, true, resumed
	v.hello = &console.Attached{Resumed: resumed, ID: v.id, Offset: next, End: end, Input: s.seen}
	s.viewer = v
	wrote := h.kept == s
	if wrote {
		h.kept = nil
	}
	if old != nil {
		v.since, wrote = old.since, h.writer == old
		h.remove(old)
		old.finish(&console.End{Why: console.Replaced})
	}
	h.viewers = append(h.viewers, v)
	if wrote && a.Mode != console.Read {
		v.wants, h.writer = true, v
	} else {
		h.mode(v, a.Mode)
	}
	h.promote()
	h.tell()
	return nil
}

// begin finds the first byte of a viewer's output. An offset that was not printed yet
// is one of another instance: output goes on at the end.
func (h *Hub) begin(s console.Start) (next, end uint64) {
	_, oldest, end := h.ring.Copy(nil, 0)
	if s.From == console.FromOffset {
		return min(s.N, end), end
	}
	return max(end-min(s.N, end), oldest), end
}

// session finds a session, or makes one that is not remembered yet.
func (h *Hub) session(token [console.SessionSize]byte) (s *session, known bool) {
	i := slices.IndexFunc(h.sessions, func(s *session) bool { return s.token == token })
	if i < 0 {
		return &session{token: token}, false
	}
	return h.sessions[i], true
}

// remember makes a session the one that was used last, and forgets the oldest that nobody
// is attached with. Who is turned away makes nobody else be forgotten.
func (h *Hub) remember(s *session) {
	h.sessions = append(slices.DeleteFunc(h.sessions, func(o *session) bool { return o == s }), s)
	if len(h.sessions) > maxSessions+console.MaxViewers {
		i := slices.IndexFunc(h.sessions, func(s *session) bool { return s.viewer == nil })
		h.sessions = slices.Delete(h.sessions, i, i+1)
	}
}

// detach forgets a viewer that has gone. A writer whose stream broke may come back and
// go on writing.
func (h *Hub) detach(v *viewer, broke bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.session.viewer == v {
		v.session.viewer = nil
	}
	if broke && h.writer == v {
		s := v.session
		h.kept, h.until = s, time.Now().Add(writerGrace)
		time.AfterFunc(writerGrace, func() { h.giveUp(s) })
	}
	if h.remove(v) {
		h.promote()
		h.tell()
	}
}

// giveUp lets somebody else write than a session whose stream broke, unless it came back
// and broke again: that has a time of its own.
func (h *Hub) giveUp(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept == s && !time.Now().Before(h.until) {
		h.kept = nil
		h.promote()
		h.tell()
	}
}

// remove takes a viewer off the list.
func (h *Hub) remove(v *viewer) bool {
	i := slices.Index(h.viewers, v)
	if i < 0 {
		return false
	}
	h.viewers = slices.Delete(h.viewers, i, i+1)
	if h.writer == v {
		h.writer = nil
	}
	close(h.left)
	h.left = make(chan struct{})
	return true
}

// setMode does what a viewer asks for.
func (h *Hub) setMode(v *viewer, m console.Mode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.viewers, v) {
		return
	}
	h.mode(v, m)
	h.promote()
	h.tell()
}

func (h *Hub) mode(v *viewer, m console.Mode) {
	v.wants = m != console.Read
	switch {
	case m == console.Take:
		h.writer, h.kept = v, nil
	case m == console.Read && h.writer == v:
		h.writer = nil
	}
}

// promote lets the viewer write that has been waiting for longest, if nobody writes.
func (h *Hub) promote() {
	for _, v := range h.viewers {
		if h.writer != nil || h.kept != nil {
			return
		}
		if v.wants {
			h.writer = v
		}
	}
}

func (h *Hub) resize(v *viewer, s console.Size) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.size != s {
		v.size = s
		h.tell()
	}
}

// tell has the list sent to every viewer.
func (h *Hub) tell() {
	for _, v := range h.viewers {
		v.list = true
		v.wakeUp()
	}
}

// list is who is attached.
func (h *Hub) list() console.Viewers {
	var l console.Viewers
	for _, v := range h.viewers {
		one := console.Viewer{ID: v.id, Since: v.since.UnixMilli(), Size: v.size, Name: v.name, Mode: console.Read}
		switch {
		case h.writer == v:
			one.Mode = console.Write
		case v.wants:
			one.Mode = console.Waiting
		}
		l.Viewers = append(l.Viewers, one)
	}
	return l
}
