package fakehost

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant/client"
)

// Ways to be evil with channels. Those that change records let the first ones pass,
// so that it happens in the middle of a conversation.
const (
	OtherKeeper   = "other-keeper"   // leads channels to the keeper of another bond
	TamperChannel = "tamper-channel" // changes a byte of a record to the client
	ReplayChannel = "replay-channel" // sends a record to the client twice
	CutChannel    = "cut-channel"    // cuts the connection
	OldServer     = "old-server"     // has no channels
)

// KeeperEnd has the hypervisor's end of a channel, which is closed when it returns.
type KeeperEnd func(ctx context.Context, c net.Conn, port uint16)

// Keeper sets what is at the end of channels of a kind; without it they echo.
func (s *Server) Keeper(kind string, end KeeperEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepers[kind] = end
}

func (s *Server) channel(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	v := s.vms[r.PathValue("id")]
	s.mu.Unlock()
	if s.mode() == OldServer {
		http.NotFound(w, r)
		return
	}
	if v == nil {
		problem(w, http.StatusNotFound, "NotFound", "no such VM")
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer s.forgetSocket(ws)
	s.mu.Lock()
	s.sockets[ws] = true
	s.mu.Unlock()
	ws.SetReadLimit(1 << 20)
	_, hello, err := ws.Read(r.Context())
	var in client.Channel
	if err != nil || json.Unmarshal(hello, &in) != nil {
		return
	}
	p, end, said := s.openChannel(v, &in)
	raw, err := json.Marshal(said)
	if err != nil || ws.Write(r.Context(), websocket.MessageText, raw) != nil || p == nil {
		ws.Close(websocket.StatusPolicyViolation, "") //nolint:errcheck // as above
		return
	}
	defer p.Key.Wipe()
	c, err := channel.Accept(context.Background(), &socket{ws: ws, evil: s.mode()}, *p)
	if err != nil {
		return
	}
	defer c.Close()
	end(r.Context(), c, in.Port)
}

// CutChannels breaks all channels, as a server does that is killed.
func (s *Server) CutChannels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ws := range s.sockets {
		go ws.CloseNow() //nolint:errcheck // it is cut
	}
}

func (s *Server) forgetSocket(ws *websocket.Conn) {
	ws.CloseNow() //nolint:errcheck // it has ended
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, ws)
}

// openChannel returns the parameters of a channel, or nil, and what the server says.
func (s *Server) openChannel(v *vm, in *client.Channel) (*channel.Params, KeeperEnd, map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.execute(v, client.Command{Command: in.Kind, Ticket: in.Ticket})
	switch {
	case s.evil == NoReceipt:
		out.Receipt = nil
	case s.evil == ForgedReceipt && len(out.Receipt) > 0:
		out.Receipt[len(out.Receipt)-1] ^= 1
	}
	if out.Class != "" {
		return nil, nil, map[string]any{"title": "Refused", "class": out.Class, "detail": out.Reason, "receipt": out.Receipt}
	}
	t, err := ticketOf(v.bond, in.Ticket)
	if err != nil {
		panic(err) // execute has opened it
	}
	key, err := v.bond.ChannelKey()
	if err != nil {
		panic(err)
	}
	if s.evil == OtherKeeper {
		key.Wipe()
		key = bond.RandomSecret(32)
	}
	end := s.keepers[in.Kind]
	if end == nil {
		end = func(_ context.Context, c net.Conn, _ uint16) { io.Copy(c, c) } //nolint:errcheck // ends with the channel
	}
	p := &channel.Params{Key: key, VM: v.bond.VM(), Descriptor: v.descriptor.Value[:], Kind: in.Kind, Port: in.Port, Nonce: t.Nonce}
	return p, end, map[string]any{"receipt": out.Receipt}
}

// socket makes a stream of a WebSocket, as the server's relay and the gate do.
type socket struct {
	ws     *websocket.Conn
	evil   string
	writes int
	reader io.Reader
}

func (c *socket) Read(p []byte) (int, error) {
	for {
		if c.reader == nil {
			_, r, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, io.EOF
			}
			c.reader = r
		}
		n, err := c.reader.Read(p)
		if err == io.EOF { //nolint:errorlint // messages end with the plain one
			c.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *socket) Write(p []byte) (int, error) {
	c.writes++
	sent := append([]byte(nil), p...)
	if c.writes == 4 { // the first is the handshake
		switch c.evil {
		case TamperChannel:
			sent[len(sent)-1] ^= 1
		case ReplayChannel:
			sent = append(sent, sent...)
		case CutChannel:
			c.ws.CloseNow() //nolint:errcheck // it is cut
		}
	}
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, sent); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *socket) Close() error {
	end := time.AfterFunc(time.Second, func() { c.ws.CloseNow() }) //nolint:errcheck // a test's server does not wait
	defer end.Stop()
	return c.ws.Close(websocket.StatusNormalClosure, "")
}
