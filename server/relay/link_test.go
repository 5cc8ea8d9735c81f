package relay

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/toolstack"
)

// watched is a connection that knows whether it was closed, and can fail to write.
type watched struct {
	net.Conn
	broken, closed atomic.Bool
}

func (w *watched) Write(p []byte) (int, error) {
	if w.broken.Load() {
		return 0, net.ErrClosed
	}
	return w.Conn.Write(p)
}

func (w *watched) Close() error {
	w.closed.Store(true)
	return w.Conn.Close()
}

type taken struct {
	http.ResponseWriter
	conn *watched
}

func (t *taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, _, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = &watched{Conn: c}
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), err
}

// TestGoneClient: a client that goes away while the gate opens its channel leaves no
// connection behind, neither its own nor the gate's.
func TestGoneClient(t *testing.T) {
	gate := gatetest.Start(t, filepath.Join(t.TempDir(), "gate"))
	gate.Handle(qmp.CmdOpen, func(*gatetest.Call) (any, error) { return qmp.OpenResult{}, nil })
	gate.Handle(qmp.CmdChannel, func(*gatetest.Call) (any, error) { return qmp.ChannelResult{Receipt: []byte("receipt")}, nil })
	ended := make(chan struct{})
	gate.Channels(func(c *net.UnixConn, _ map[string]any) {
		c.Read(make([]byte, 1)) //nolint:errcheck // until the relay hangs up
		close(ended)
	})
	h := &Hub{Gate: &toolstack.Gate{Path: gate.Path, Log: slog.New(slog.DiscardHandler)}, Log: slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(prometheus.NewRegistry()), Total: 1, PerTenant: 1, Hello: time.Minute}
	served := make(chan *watched, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release, err := h.Reserve(1)
		if err != nil {
			t.Error(err)
			return
		}
		k := &taken{ResponseWriter: w}
		ws, err := websocket.Accept(k, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		k.conn.broken.Store(true)
		h.Serve(&Request{VM: "vm", Socket: ws, Conn: k.conn}, release)
		served <- k.conn
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(s.URL, "http", "ws", 1), nil) //nolint:bodyclose // the library's
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow() //nolint:errcheck // it has ended
	if err := c.Write(ctx, websocket.MessageText, []byte(`{"kind":"console","port":0,"ticket":"dGlja2V0"}`)); err != nil {
		t.Fatal(err)
	}
	if conn := <-served; !conn.closed.Load() {
		t.Fatal("the client's connection is left open")
	}
	<-ended
	if release, err := h.Reserve(1); err != nil {
		t.Fatal(err)
	} else {
		release()
	}
}
