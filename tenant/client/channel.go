package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Times of a channel.
const (
	channelTimeout = 75 * time.Second // until the gate's answer: it may wait for another session
	closeTimeout   = 2 * time.Second  // for the server to take the end
)

// maxReceipt bounds the server's one text message, bytes.
const maxReceipt = 1 << 20

// Channel is the first message on a WebSocket for a channel.
type Channel struct {
	Kind   string `json:"kind"`
	Port   uint16 `json:"port"`
	Ticket []byte `json:"ticket"`
}

// RefusalError says that the server did not open a channel. Its texts are the
// server's word, made printable; Receipt, if there is one, can be verified.
type RefusalError struct {
	Title, Detail, Class string
	Receipt              []byte
}

func (e *RefusalError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Title
}

// ClosedError says with which words the server ended a channel's connection. They
// prove nothing; the channel's own end does.
type ClosedError struct {
	Code   int // RFC 6455, section 7.4
	Reason string
}

func (e *ClosedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("the server ended the connection (code %d)", e.Code)
	}
	return "the server ended the connection: " + e.Reason
}

// OpenChannel hands a channel's ticket over and returns the stream that the server
// relays, and the sealed receipt. ctx bounds the opening only. Once the ticket may
// have been sent, errors are *RefusalError or *SentError.
func (c *Client) OpenChannel(ctx context.Context, id string, ask Channel) (io.ReadWriteCloser, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, channelTimeout)
	defer cancel()
	s, err := c.dialChannel(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	receipt, err := s.ask(ctx, ask)
	if err != nil {
		s.conn.Close()
		s.socket.CloseNow() //nolint:errcheck // closed already
		return nil, nil, err
	}
	return s, receipt, nil
}

func (c *Client) dialChannel(ctx context.Context, id string) (*stream, error) {
	var conn atomic.Pointer[tls.Conn]
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			d := tls.Dialer{NetDialer: c.dialer, Config: c.tls.Clone()}
			d.Config.NextProtos = []string{"http/1.1"} // HTTP/2 has no WebSocket here
			t, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			conn.Store(t.(*tls.Conn))
			return t, nil
		},
		ResponseHeaderTimeout:  requestTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
	}
	header := http.Header{"User-Agent": {"uvbond"}, "Accept": {"application/problem+json"}}
	if c.token != "" {
		header.Set("Authorization", "Bearer "+c.token)
	}
	socket, resp, err := websocket.Dial(ctx, c.base.String()+"/v1/vms/"+url.PathEscape(id)+"/channel", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: c.http.CheckRedirect},
		HTTPHeader: header,
	})
	switch {
	case errors.Is(err, ErrTLSPin):
		return nil, ErrTLSPin
	case err != nil && resp != nil && resp.Body != nil:
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("%w: it is no WebSocket", ErrGarbage)
		}
		return nil, problem(resp)
	case err != nil:
		return nil, plain(err)
	}
	socket.SetReadLimit(-1) // of messages; the stream has no end
	return &stream{socket: socket, conn: conn.Load()}, nil
}

// stream makes one stream of a WebSocket's messages. Close ends pending calls.
type stream struct {
	socket *websocket.Conn
	conn   *tls.Conn // below it
	reader io.Reader // of the message that is being read
	once   sync.Once
}

// ask sends the first message and takes the answer.
func (s *stream) ask(ctx context.Context, ask Channel) ([]byte, error) {
	data, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	if err := s.socket.Write(context.Background(), websocket.MessageText, data); err != nil {
		return nil, &SentError{Err: err}
	}
	kind, r, err := s.socket.Reader(context.Background())
	if err != nil {
		return nil, &SentError{Err: broken(err)}
	}
	if kind != websocket.MessageText {
		return nil, &SentError{Err: ErrGarbage}
	}
	var answer struct {
		Title, Detail, Class string
		Receipt              []byte
	}
	if err := decode(r, maxReceipt, &answer); err != nil {
		return nil, &SentError{Err: err}
	}
	if answer.Class != "" || answer.Title != "" {
		return nil, &RefusalError{Title: Printable(answer.Title), Detail: Printable(answer.Detail), Class: Printable(answer.Class), Receipt: answer.Receipt}
	}
	return answer.Receipt, nil
}

// broken turns the end of a WebSocket into the end of a stream.
func broken(err error) error {
	var end websocket.CloseError
	switch {
	case !errors.As(err, &end):
		return err
	case end.Code == websocket.StatusNormalClosure:
		return io.EOF
	}
	return &ClosedError{Code: int(end.Code), Reason: Printable(end.Reason)}
}

// Read is for one goroutine at a time.
func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.reader == nil {
			kind, r, err := s.socket.Reader(context.Background())
			if err != nil {
				return 0, broken(err)
			}
			if kind != websocket.MessageBinary {
				return 0, fmt.Errorf("%w: text in a channel", ErrGarbage)
			}
			s.reader = r
		}
		n, err := s.reader.Read(p)
		if err == io.EOF { //nolint:errorlint // messages end with the plain one
			s.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends p as one message.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.socket.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, broken(err)
	}
	return len(p), nil
}

// Close sends the WebSocket's end behind what was written, and waits at most
// closeTimeout for the server to have taken it.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.conn.SetDeadline(time.Now().Add(closeTimeout))  //nolint:errcheck // a closed one fails below
		s.socket.Close(websocket.StatusNormalClosure, "") //nolint:errcheck // it is closed, whatever the server says
	})
	return nil
}
