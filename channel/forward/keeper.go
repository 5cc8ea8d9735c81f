package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// dialTimeout bounds one dial of the guest's port.
const dialTimeout = 20 * time.Second

// maxReason bounds the text for a connection that was not made, bytes.
const maxReason = 200

// Status bytes.
const (
	connected    = 0
	notConnected = 1
)

// Dialer reaches the port that the channel is for.
type Dialer func(ctx context.Context) (net.Conn, error)

// Serve is the keeper's end. It returns nil when the tenant ended the channel in
// order or ctx ended, and leaves channel open. No stream outlives it.
func Serve(ctx context.Context, channel net.Conn, dial Dialer) error {
	m := newMux(channel)
	m.under.leave = true
	session, err := yamux.Server(m.under, config())
	if err != nil {
		return err
	}
	defer channel.SetDeadline(time.Time{}) //nolint:errcheck // the caller may still say why it ends
	m.session = session
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { session.Close() })()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	defer session.Close()
	if m.control, err = session.AcceptStream(); err != nil {
		return m.served(ctx, err)
	}
	work.Go(func() { m.takeResets(m.leave) })
	for {
		y, err := session.AcceptStream()
		if err != nil {
			return m.served(ctx, err)
		}
		s := newStream(y, m)
		switch n, err := m.add(s); {
		case err != nil:
			return err
		case n > 2*MaxStreams || session.NumStreams() > 4*MaxStreams:
			return fmt.Errorf("the client keeps opening connections over the limit of %d", MaxStreams)
		case n > MaxStreams:
			work.Go(func() {
				s.refuse(fmt.Sprintf("%d connections are open already, the most that one channel carries", MaxStreams))
			})
		default:
			work.Go(func() { s.connect(ctx, dial) })
		}
	}
}

func (m *mux) served(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return m.why(err)
}

// refuse says why there is no connection.
func (s *Stream) refuse(reason string) {
	defer s.mux.remove(s)
	s.Write(append([]byte{notConnected}, reason[:min(len(reason), maxReason)]...)) //nolint:errcheck // the session's end says it too
	s.CloseWrite()                                                                 //nolint:errcheck // as above
}

func (s *Stream) connect(ctx context.Context, dial Dialer) {
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stop := make(chan struct{})
	go func() { // a client that gave up need not be dialled for
		select {
		case <-s.gone:
			cancel()
		case <-stop:
		}
	}()
	conn, err := dial(limited)
	close(stop)
	if err != nil {
		s.refuse(reason(err))
		return
	}
	local, ok := conn.(Local)
	if !ok {
		conn.Close()
		s.refuse("the guest's port cannot be half-closed")
		return
	}
	if _, err := s.Write([]byte{connected}); err != nil {
		conn.Close()
		s.Close()
		return
	}
	Join(local, s) //nolint:errcheck // the other end was told
}

// reason is what the tenant is told of a dial's error: nothing of the host's.
func reason(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return strings.ToValidUTF8(err.Error(), "")
}
