package ui

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"sync"
	"time"
)

// LinkLife is how long a one-time link works.
const LinkLife = 5 * time.Minute

// Bounds of what is remembered at once; the oldest goes.
const (
	maxLinks    = 8
	maxSessions = 16
)

// secret is 128 random bits, as text for URLs and headers.
func secret() string {
	var raw [16]byte
	rand.Read(raw[:])
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// digest is what is kept of a secret: comparing digests tells nothing by its time.
type digest [sha256.Size]byte

func digestOf(s string) digest { return sha256.Sum256([]byte(s)) }

func (d digest) is(s string) bool {
	o := digestOf(s)
	return subtle.ConstantTimeCompare(d[:], o[:]) == 1
}

// session is one browser that has logged in. It is proved by two secrets: the
// cookie, which scripts cannot read but which browsers send to every port of this
// address, and the key, which scripts of this origin alone have.
//
// The proof goes the other way: every answer to the session bears it, and the page believes
// no answer without. Another user who takes the port when uvbond ui has ended cannot go on
// where it ended, in a page that is still open: the page never sends its proof.
type session struct {
	cookie, key digest
	proof       string
	seen        time.Time
	ctx         context.Context // ends with the session
	cancel      context.CancelFunc
}

type link struct {
	token digest
	until time.Time
}

type sessions struct {
	idle time.Duration
	now  func() time.Time

	mu    *sync.Mutex
	links []link
	list  []*session
	ended bool
}

func newSessions(idle time.Duration, now func() time.Time) sessions {
	return sessions{idle: idle, now: now, mu: new(sync.Mutex)}
}

// link makes a one-time token.
func (s *sessions) link() string {
	token := secret()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.links) == maxLinks {
		s.links = s.links[1:]
	}
	s.links = append(s.links, link{digestOf(token), s.now().Add(LinkLife)})
	return token
}

// login takes a token and starts a session.
func (s *sessions) login(token string) (cookie, key, proof string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.links {
		if !l.token.is(token) {
			continue
		}
		s.links = append(s.links[:i:i], s.links[i+1:]...)
		if s.ended || s.now().After(l.until) {
			return "", "", "", false
		}
		if len(s.list) == maxSessions {
			s.drop(0)
		}
		cookie, key, proof = secret(), secret(), secret()
		one := &session{cookie: digestOf(cookie), key: digestOf(key), proof: proof, seen: s.now()}
		one.ctx, one.cancel = context.WithCancel(context.Background())
		s.list = append(s.list, one)
		return cookie, key, proof, true
	}
	return "", "", "", false
}

// drop ends a session; the caller holds the lock.
func (s *sessions) drop(i int) {
	s.list[i].cancel()
	s.list = append(s.list[:i:i], s.list[i+1:]...)
}

// find returns the session that both secrets prove, if it lives.
func (s *sessions) find(cookie, key string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	for _, one := range s.list {
		if one.cookie.is(cookie) && one.key.is(key) {
			return one
		}
	}
	return nil
}

// sweep ends what was idle for too long; the caller holds the lock.
func (s *sessions) sweep() {
	for i := len(s.list) - 1; i >= 0; i-- {
		if s.now().Sub(s.list[i].seen) > s.idle {
			s.drop(i)
		}
	}
}

// touch notes that the session's person did something.
func (s *sessions) touch(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.seen = s.now()
}

// logout ends a session.
func (s *sessions) logout(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i] == one {
			s.drop(i)
			return
		}
	}
}

// end ends all sessions for good.
func (s *sessions) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.links = true, nil
	for len(s.list) > 0 {
		s.drop(0)
	}
}

// watch ends idle sessions, with their WebSockets, while nobody asks.
func (s *sessions) watch(ctx context.Context) {
	t := time.NewTicker(max(min(s.idle/4, 10*time.Second), 10*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.mu.Lock()
			s.sweep()
			s.mu.Unlock()
		}
	}
}

// login exchanges the token of a one-time link for a session.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Once string `json:"once"`
	}
	if !s.read(w, r, &in) {
		return
	}
	cookie, key, proof, ok := s.sessions.login(in.Once)
	if !ok {
		refuse(w, http.StatusForbidden, "this link was used before, or is older than five minutes", "press Enter where uvbond ui runs: it prints a new one")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	s.log.Info("logged in")
	answer(w, map[string]string{"key": key, "proof": proof})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request, one *session) {
	s.sessions.logout(one)
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	answer(w, struct{}{})
}

// active is sent by the page when its person does something. Nothing else keeps a
// session alive: the page asks for news by itself.
func (s *Server) active(w http.ResponseWriter, _ *http.Request, one *session) {
	s.sessions.touch(one)
	answer(w, struct{}{})
}

func (s *Server) session(w http.ResponseWriter, _ *http.Request, _ *session) {
	answer(w, map[string]string{"version": s.opts.Version})
}
