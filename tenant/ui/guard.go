package ui

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
)

// contentPolicy is the page's Content-Security-Policy: nothing is loaded from anywhere
// else, no script or style stands in a document, and no text becomes markup
// (trusted types). data: is for pictures only: a screen's parts and its pointer.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

var headers = map[string]string{
	"Content-Security-Policy":      contentPolicy,
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Embedder-Policy": "require-corp",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Cache-Control":                "no-store",
}

// keyHeader and keyProtocol carry a session's key: WebSockets of browsers can set
// no header, but name protocols.
const (
	keyHeader   = "X-Uvbond-Key"
	proofHeader = "X-Uvbond-Proof" // of an answer
	keyProtocol = "uvbond.key."
	protocol    = "uvbond.1"
)

// handler is a handler of a session.
type handler func(http.ResponseWriter, *http.Request, *session)

func (s *Server) cookieName() string {
	_, port, _ := strings.Cut(s.host, ":")
	return "uvbond-" + port // cookies know no ports
}

// guard refuses what does not come from this server's own page.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		// A name that somebody pointed at this address (DNS rebinding) is another host.
		if r.Host != s.host {
			refuse(w, http.StatusMisdirectedRequest, "this is not the address of this page", "use http://"+s.host)
			return
		}
		if !s.sameOrigin(r) {
			s.log.Warn("a request of another site was refused", "path", r.URL.Path)
			refuse(w, http.StatusForbidden, "requests of other sites are refused", "")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// sameOrigin tells whether a request comes from the page itself. Following a link
// to the page from elsewhere is fine: it has no secrets before its scripts ask.
func (s *Server) sameOrigin(r *http.Request) bool {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if r.Method == http.MethodGet && r.URL.Path == "/" && r.Header.Get("Upgrade") == "" {
		return true
	}
	if site != "" && site != "same-origin" && site != "none" {
		return false
	}
	if r.Method == http.MethodGet && r.Header.Get("Upgrade") == "" {
		return origin == "" || origin == "http://"+s.host
	}
	return origin == "http://"+s.host
}

// private lets only requests with a session through.
func (s *Server) private(next handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := s.sessionOf(r)
		if one == nil {
			refuse(w, http.StatusUnauthorized, "not logged in, or the session ended", "press Enter where uvbond ui runs: it prints a new link")
			return
		}
		w.Header().Set(proofHeader, one.proof)
		next(w, r, one)
	})
}

func (s *Server) sessionOf(r *http.Request) *session {
	key := r.Header.Get(keyHeader)
	for p := range strings.SplitSeq(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		if k, ok := strings.CutPrefix(strings.TrimSpace(p), keyProtocol); ok {
			key = k
		}
	}
	// A site on another port of this address can add cookies of the same name.
	for _, c := range r.CookiesNamed(s.cookieName()) {
		if one := s.sessions.find(c.Value, key); one != nil {
			return one
		}
	}
	return nil
}

// read decodes a request's JSON strictly. After false it was answered.
func (s *Server) read(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "only JSON is taken", "")
		return false
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return true
		}
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		refuse(w, http.StatusRequestEntityTooLarge, "the request is too large", "")
		return false
	}
	refuse(w, http.StatusBadRequest, "the request does not parse", "")
	return false
}

// problem is an error as the page gets it.
type problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Class string `json:"class,omitempty"`
}

func refuse(w http.ResponseWriter, status int, text, hint string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{Error: text, Hint: hint})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
