// Package ui serves the owner's page: an HTTP server on the loopback interface,
// for the one person who started it.
//
// The page shows what package tenant verified, and what the management server only
// claims, marked as that. It adds no power: whoever holds a session can do what
// uvbond can, and that is why a session is hard to come by.
//
//   - Other web sites, which the same browser may have open, are kept out by the
//     Host and Origin headers, by a cookie that is SameSite=Strict, and by a key
//     that a site cannot read (guard.go).
//   - Other users of the machine can connect to the port. They have neither the
//     one-time link nor the session's cookie and key (session.go).
//   - Text from guests, operators and servers reaches the page as data. The page
//     writes it as text, and its Content-Security-Policy runs no script and loads
//     nothing that this server does not serve.
//
// Everything that arrives is hostile and bounded. No key, token or passphrase is
// ever sent to the page.
package ui

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/web"
)

// Finding is one line of `uvbond doctor`.
type Finding struct {
	What  string `json:"what"`
	State string `json:"state"` // ok, warning or error
	Text  string `json:"text"`
	Mend  string `json:"mend,omitempty"` // the command that mends it
}

// Options of a Server.
type Options struct {
	Owner   *tenant.Owner
	Dial    Dial // opens channels; nil: Owner.OpenChannel
	Doctor  func(context.Context) []Finding
	Version string
	Idle    time.Duration // a session ends after so long without its person; 0: DefaultIdle
	Log     *slog.Logger  // nil: nothing is logged
	Now     func() time.Time
}

// Dial opens a channel of a kind to a port of a VM.
type Dial func(ctx context.Context, vm, kind string, port uint16) (net.Conn, error)

// DefaultIdle is how long a session lives without its person.
const DefaultIdle = 30 * time.Minute

// Bounds of the server.
const (
	maxBody    = 64 << 10 // of a request, bytes
	maxHeader  = 16 << 10
	maxSockets = 32 // WebSockets at once
)

// bodyTimeout is how long a request may take to come. Every user of the machine can
// connect, and a request that never ends would keep its connection for good.
var bodyTimeout = 20 * time.Second

// Server is the page's server.
type Server struct {
	opts     Options
	owner    *tenant.Owner
	log      *slog.Logger
	host     string // host:port as browsers send it
	files    fs.FS
	sessions sessions
	claims   claims
	runs     runs
	logs     logs
	since    since
	sockets  chan struct{}

	ctx    context.Context // of what outlives a request
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New returns a server for a listener's address, which is on the loopback interface.
func New(o Options, address net.Addr) (*Server, error) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() {
		return nil, errors.New("the page is served on a loopback address only")
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = o.Owner.OpenChannel
	}
	files, err := web.Files()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, owner: o.Owner, log: o.Log, host: address.String(), files: files, sockets: make(chan struct{}, maxSockets)}
	s.sessions = newSessions(o.Idle, o.Now)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Link returns a new one-time link. It logs one browser in, within LinkLife.
func (s *Server) Link() string { return "http://" + s.host + "/#once=" + s.sessions.link() }

// Serve answers on the listener until ctx ends. A command that runs then is cut off, as
// by Ctrl-C in a terminal: the next look at the VM shows whether it was executed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		s.sessions.end()
		s.cancel()
		wait, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := srv.Shutdown(wait); err != nil {
			srv.Close()
		}
		stopped <- nil
	})
	defer stop()
	s.work.Go(func() { s.sessions.watch(s.ctx) })
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		err = <-stopped
	}
	s.cancel()
	s.work.Wait()
	return err
}

// Handler is the whole page.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /assets/{file}", s.asset)
	mux.HandleFunc("GET /licenses.txt", s.licenses)
	mux.HandleFunc("POST /api/login", s.login)
	for pattern, h := range map[string]handler{
		"POST /api/logout":                s.logout,
		"POST /api/active":                s.active,
		"GET /api/session":                s.session,
		"GET /api/state":                  s.state,
		"GET /api/guide":                  s.guide,
		"GET /api/vms/{name}":             s.vm,
		"GET /api/vms/{name}/access":      s.access,
		"GET /api/vms/{name}/timeline":    s.timeline,
		"POST /api/vms/{name}/audit":      s.audit,
		"POST /api/vms/{name}/command":    s.command,
		"POST /api/vms/{name}/undelegate": s.undelegate,
		"GET /api/vms/{name}/console":     s.console,
		"GET /api/vms/{name}/screen":      s.screen,
	} {
		mux.Handle(pattern, s.private(h))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "no such page", "")
	})
	return s.guard(mux)
}
