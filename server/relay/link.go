package relay

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/toolstack"
)

// bufferSize of each direction of a channel, bytes: 32 KiB, and what a record of a
// channel adds to them.
const bufferSize = 33 << 10

// Who ended a channel, for the log.
const (
	byClient       = "client"
	byHypervisor   = "hypervisor"
	byServer       = "server"
	clientStalled  = "the client took nothing"
	gateStalled    = "the hypervisor took nothing"
	reasonStopping = "the server is stopping"
)

// link is one channel on its way through the server.
type link struct {
	*Request
	hub *Hub

	mu   sync.Mutex
	gate *net.UnixConn // nil until the gate opened it
	over bool

	end      atomic.Pointer[string]
	up, down atomic.Int64 // bytes from and to the client
}

// answer is the server's one text message to the client.
type answer struct {
	Title   string `json:"title,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Class   string `json:"class,omitempty"`
	Receipt []byte `json:"receipt,omitempty"`
}

func (l *link) run() {
	defer l.Conn.Close()
	start, log := time.Now(), l.hub.Log.With("request", l.ID, "vm", l.VM, "tenant", l.Tenant)
	hello, err := l.hello()
	if err != nil {
		l.hub.Metrics.opened("", "malformed")
		log.Info("channel not asked for", "reason", err.Error())
		l.refuse(&answer{Title: "Malformed", Class: problem.ClassInvalid, Detail: err.Error()})
		return
	}
	log = log.With("kind", hello.Kind)
	if hello.Port != 0 {
		log = log.With("port", hello.Port)
	}
	conn, receipt, refused, err := l.hub.Gate.Channel(context.Background(), l.VM, hello.Ticket, qmp.ChannelArgs{Kind: hello.Kind, Port: hello.Port})
	switch {
	case err != nil:
		l.hub.Metrics.opened(hello.Kind, "unavailable")
		log.Warn("channel not opened", "cause", err)
		l.refuse(&answer{Title: "Unavailable", Class: problem.ClassUnavailable, Detail: unavailable(err)})
		return
	case refused != nil:
		l.hub.Metrics.opened(hello.Kind, refused.Outcome)
		log.Info("channel refused", "outcome", refused.Outcome, "class", refused.Class)
		l.refuse(&answer{Title: "Refused", Class: refused.Class, Detail: refused.Reason, Receipt: refused.Receipt})
		return
	}
	defer conn.Close()
	if !l.connect(conn) || l.say(&answer{Receipt: receipt}) != nil {
		log.Info("channel opened for a client that is gone")
		return
	}
	hello.Ticket, receipt = nil, nil // a channel may be open for weeks
	m := l.hub.Metrics.kind(hello.Kind)
	m.open.Inc()
	log.Info("channel opened")
	l.relay(conn, m)
	m.open.Dec()
	log.Info("channel ended", "by", l.endedBy(), "seconds", int64(time.Since(start).Seconds()), "up", l.up.Load(), "down", l.down.Load())
}

func unavailable(err error) string {
	if e, ok := errors.AsType[*toolstack.UnavailableError](err); ok {
		return e.Error()
	}
	return "the hypervisor was not asked; try again"
}

// hello waits for the client's first message.
func (l *link) hello() (*Hello, error) {
	l.Conn.SetReadDeadline(time.Now().Add(l.hub.Hello)) //nolint:errcheck // a closed one fails below
	l.Socket.SetReadLimit(-1)                           // of messages; the first one's follows
	kind, r, err := l.Socket.Reader(context.Background())
	var data []byte
	if err == nil && kind == websocket.MessageText {
		data, err = io.ReadAll(io.LimitReader(r, MaxHello+1))
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errors.New("no first message came in time")
	case err != nil:
		return nil, errors.New("the client went away before its first message")
	case kind != websocket.MessageText:
		return nil, errors.New("the first message is not text")
	}
	l.Conn.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	return ParseHello(data)
}

// say sends the one text message.
func (l *link) say(a *answer) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return l.send(websocket.MessageText, data)
}

func (l *link) refuse(a *answer) {
	if l.say(a) == nil {
		// Also for what the client still sends: closing reads to the end of it.
		l.Conn.SetDeadline(time.Now().Add(closeTimeout))         //nolint:errcheck // a closed one fails below
		l.Socket.Close(websocket.StatusPolicyViolation, a.Class) //nolint:errcheck // the answer is out; nothing depends on the close
	}
}

// connect notes the gate's connection, unless the link was ended meanwhile.
func (l *link) connect(conn *net.UnixConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.gate = conn
	return true
}

// relay moves bytes until one end is done, and ends the other.
func (l *link) relay(gate *net.UnixConn, m *kindMetrics) {
	var down sync.WaitGroup
	down.Go(func() { l.toClient(gate, m) })
	if l.fromClient(gate, m) {
		// The keeper sees the end, after all that came before it, and closes. If it
		// was the first to, its last words are still to be read.
		gate.CloseWrite()                                  //nolint:errcheck // fails only when it is closed
		gate.SetReadDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // as above
		down.Wait()
	}
	gate.Close()
	down.Wait()
}

// fromClient tells whether one end closed in order, so that the other may have more to say.
func (l *link) fromClient(gate *net.UnixConn, m *kindMetrics) bool {
	buf := make([]byte, bufferSize)
	for {
		kind, r, err := l.Socket.Reader(context.Background())
		if err != nil {
			l.ended(byClient)
			return websocket.CloseStatus(err) != -1
		}
		if kind != websocket.MessageBinary {
			l.ended(byServer)
			l.Socket.Close(websocket.StatusUnsupportedData, "a channel is binary") //nolint:errcheck // ends anyway
			return false
		}
		if ok, gone := l.message(r, gate, buf, m); !ok {
			return gone
		}
	}
}

// message moves one message to the gate, in pieces. gone says that the gate's end was closed.
func (l *link) message(r io.Reader, gate *net.UnixConn, buf []byte, m *kindMetrics) (ok, gone bool) {
	for {
		n, err := r.Read(buf)
		if n > 0 {
			l.up.Add(int64(n))
			m.up.Add(float64(n))
			gate.SetWriteDeadline(time.Now().Add(StallTimeout)) //nolint:errcheck // a closed one fails below
			if _, err := gate.Write(buf[:n]); err != nil {
				l.failed(err, gateStalled, byHypervisor)
				return false, !errors.Is(err, os.ErrDeadlineExceeded)
			}
		}
		if err == io.EOF { //nolint:errorlint // messages end with the plain one
			return true, false
		}
		if err != nil {
			l.ended(byClient)
			return false, false
		}
	}
}

// toClient ends the WebSocket when the gate's connection ends.
func (l *link) toClient(gate *net.UnixConn, m *kindMetrics) {
	buf := make([]byte, bufferSize)
	for {
		n, err := gate.Read(buf)
		if n > 0 {
			l.down.Add(int64(n))
			m.down.Add(float64(n))
			if err := l.send(websocket.MessageBinary, buf[:n]); err != nil {
				l.failed(err, clientStalled, byClient)
				l.Conn.Close()
				return
			}
		}
		if err != nil {
			l.ended(byHypervisor)
			l.Socket.Close(websocket.StatusNormalClosure, "") //nolint:errcheck // Conn is closed next
			return
		}
	}
}

// send bounds a write by a deadline on the connection, which costs no timer of
// its own, and lifts it: an answer to a ping may come at any time.
func (l *link) send(kind websocket.MessageType, p []byte) error {
	l.Conn.SetWriteDeadline(time.Now().Add(StallTimeout)) //nolint:errcheck // a closed one fails below
	err := l.Socket.Write(context.Background(), kind, p)
	l.Conn.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
	return err
}

func (l *link) failed(err error, stalled, otherwise string) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		otherwise = stalled
	}
	l.ended(otherwise)
}

// ended keeps who came first.
func (l *link) ended(by string) { l.end.CompareAndSwap(nil, &by) }

func (l *link) endedBy() string {
	if by := l.end.Load(); by != nil {
		return *by
	}
	return byServer
}

// stop tells the client that the server stops.
func (l *link) stop() {
	l.ended(byServer)
	l.Socket.Close(websocket.StatusGoingAway, reasonStopping) //nolint:errcheck // cut follows
	l.cut()
}

// cut closes both connections.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.Conn.Close()
	if l.gate != nil {
		l.gate.Close()
	}
}
