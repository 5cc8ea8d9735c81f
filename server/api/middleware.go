package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/uvbond/uvbond/server/problem"
)

// info is what a request gathers for its log line.
type info struct {
	id     string
	tenant string
	cause  error
}

type infoKey struct{}

func infoOf(ctx context.Context) *info {
	if i, ok := ctx.Value(infoKey{}).(*info); ok {
		return i
	}
	return &info{}
}

// recorder remembers the status for log and metrics.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// observe is the outermost handler: request id, log, metrics, panics and the
// limit on requests at once.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var raw [8]byte
		rand.Read(raw[:])
		inf := &info{id: hex.EncodeToString(raw[:])}
		rec := &recorder{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), infoKey{}, inf))
		rec.Header().Set("X-Request-Id", inf.id)
		rec.Header().Set("Cache-Control", "no-store")
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		start := time.Now()
		s.metrics.inFlight.Inc()
		defer func() {
			s.metrics.inFlight.Dec()
			if p := recover(); p != nil {
				s.panicked(rec, r, inf, p)
			}
			s.account(rec, r, inf, time.Since(start))
		}()
		if !s.requests.tryAcquire() {
			s.metrics.turnedAway.WithLabelValues("requests").Inc()
			writeProblem(rec, r, problem.New(http.StatusServiceUnavailable, problem.ClassTooMany, "the server is busy; try again").With("Retry-After", "1"))
			return
		}
		defer s.requests.release()
		s.bound(rec, r)
		next.ServeHTTP(rec, r)
	})
}

// panicked answers for a broken invariant in a handler; http.ErrAbortHandler is
// no such thing but a handler's way to drop the connection.
func (s *Server) panicked(w *recorder, r *http.Request, inf *info, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.opts.Log.Error("a handler panicked", "request", inf.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if w.status == 0 {
		writeProblem(w, r, problem.Internal(fmt.Errorf("panic: %v", p)))
	}
}

// account writes the log line and the metrics of a finished request. The path
// is logged as its route: ids in it are the tenant's, query and body are not
// logged at all.
func (s *Server) account(w *recorder, r *http.Request, inf *info, took time.Duration) {
	route := r.Pattern // few, as labels have to be
	if route == "" || route == "/" {
		route = "unknown"
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	s.metrics.request(route, w.status, took)
	level := slog.LevelInfo
	switch {
	case w.status >= 500:
		level = slog.LevelError
	case route == "GET /healthz" || route == "GET /metrics":
		level = slog.LevelDebug
	}
	attrs := []any{"request", inf.id, "route", route, "status", w.status, "ms", took.Milliseconds(), "bytes", w.bytes, "from", address(r)}
	if id := r.PathValue("id"); len(id) == 32 {
		attrs = append(attrs, "id", id)
	}
	if inf.tenant != "" {
		attrs = append(attrs, "tenant", inf.tenant)
	}
	if inf.cause != nil {
		attrs = append(attrs, "cause", inf.cause.Error())
	}
	s.opts.Log.Log(r.Context(), level, "request", attrs...)
}

// bound sets the times that the client has to send its body and to take the
// answer. Handlers that take longer by nature move them.
func (s *Server) bound(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	//nolint:errcheck // a connection that takes no deadline is closed already
	c.SetWriteDeadline(time.Now().Add(s.opts.Config.Timeouts.Write.D()))
	if r.Body != nil && r.Body != http.NoBody {
		// Also for a body that no handler reads: net/http drains it.
		c.SetReadDeadline(time.Now().Add(s.opts.Config.Timeouts.Body.D())) //nolint:errcheck // as above
		r.Body = &timedBody{ReadCloser: r.Body, c: c}
	}
}

// timedBody lifts the read deadline at the body's end: net/http would take a
// deadline that passes while the handler works for a client that went away.
type timedBody struct {
	io.ReadCloser
	c    *http.ResponseController
	idle time.Duration // when not 0: the deadline moves with every read
}

func (b *timedBody) Read(p []byte) (int, error) {
	if b.idle != 0 {
		b.c.SetReadDeadline(time.Now().Add(b.idle)) //nolint:errcheck // as in bound
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF { //nolint:errorlint // bodies end with the plain one
		b.c.SetReadDeadline(time.Time{}) //nolint:errcheck // as in bound
	}
	return n, err
}

// notFound answers what no route takes, with the right method named when only
// that was wrong.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = method
		if _, pattern := s.mux.Handler(probe); pattern != "/" && method != r.Method {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		p := problem.New(http.StatusMethodNotAllowed, problem.ClassInvalid, "%s is not a method of this path", clipMethod(r.Method))
		writeProblem(w, r, p.With("Allow", strings.Join(allow, ", ")))
		return
	}
	writeProblem(w, r, problem.New(http.StatusNotFound, problem.ClassNotFound, "no such path; /openapi.json lists all"))
}

func clipMethod(m string) string {
	if len(m) > 16 {
		return m[:16]
	}
	return m
}
