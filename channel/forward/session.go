package forward

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// MaxStreams is how many connections one channel carries at once.
	MaxStreams = 128
	// pieceSize is how much of a connection goes out before another's turn, bytes.
	pieceSize = 32 << 10
	// statusTimeout bounds how long the keeper may take to dial, and a bit more.
	statusTimeout = dialTimeout + 10*time.Second
)

// mux is what both ends have in common: yamux, and resets.
type mux struct {
	session *yamux.Session
	under   *joiner
	control *yamux.Stream

	sending sync.Mutex // of resets
	mu      sync.Mutex
	streams map[uint32]*Stream
	leaving bool // the other end wants to hear when streams is empty
	left    bool // it was told, or is just being

	bye  chan struct{} // closed when the other end's goodbye came
	once sync.Once
}

func newMux(channel net.Conn) *mux {
	return &mux{under: &joiner{Conn: channel}, streams: map[uint32]*Stream{}, bye: make(chan struct{})}
}

// goodbye is no stream's id.
const goodbye = 0

// config of yamux. Its own timeouts are off: the channel finds a dead end out by
// itself, and a slow one is no dead one.
func config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = MaxStreams
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 0
	c.LogOutput = io.Discard
	return c
}

// joiner puts the header and the body of a frame, which yamux writes one after the
// other, into one record of the channel, refuses frames of the other end for which yamux
// would take memory without bound, and keeps the channel's first error.
type joiner struct {
	net.Conn
	leave bool   // Close ends pending calls and leaves Conn open
	held  []byte // the header of a data frame; of yamux's sender only
	came  frames // of yamux's receiver only

	mu     sync.Mutex
	err    error
	closed bool
}

const (
	frameHeader = 12 // bytes; the type is the second, the length the last four
	frameData   = 0  // type of a frame with a body
	framePing   = 2  // type of a frame that yamux answers
)

func (j *joiner) Write(p []byte) (int, error) {
	if len(j.held) == 0 && len(p) == frameHeader && p[1] == frameData && binary.BigEndian.Uint32(p[8:]) > 0 {
		j.held = append(j.held, p...)
		return len(p), nil
	}
	if len(j.held) == 0 {
		return j.note(j.Conn.Write(p))
	}
	j.held = append(j.held, p...)
	n, err := j.note(j.Conn.Write(j.held))
	j.held = j.held[:0]
	return max(n-frameHeader, 0), err
}

func (j *joiner) Read(p []byte) (int, error) {
	n, err := j.Conn.Read(p)
	if bad := j.came.follow(p[:n]); bad != nil {
		n, err = 0, bad
	}
	return j.note(n, err)
}

// errPing: yamux answers each ping in a goroutine, which waits until the answer is
// taken. Neither end sends any.
var errPing = errors.New("the other end sent a ping, which nobody does here")

// frames looks at the frames in a stream of bytes.
type frames struct {
	header [frameHeader]byte
	have   int   // bytes of header
	body   int64 // bytes that are still to come of a body
}

// follow takes the stream's next bytes. After an error there are none.
func (f *frames) follow(p []byte) error {
	for len(p) > 0 {
		if f.body > 0 {
			n := min(f.body, int64(len(p)))
			f.body -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < frameHeader {
			return nil
		}
		f.have = 0
		switch f.header[1] {
		case frameData:
			f.body = int64(binary.BigEndian.Uint32(f.header[8:]))
		case framePing:
			return errPing
		}
	}
	return nil
}

func (j *joiner) note(n int, err error) (int, error) {
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.err == nil && !j.closed {
			j.err = err
		}
	}
	return n, err
}

// Close ends yamux's reader and writer.
func (j *joiner) Close() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	if !j.leave {
		return j.Conn.Close()
	}
	return j.Conn.SetDeadline(time.Unix(1, 0))
}

// why returns the reason for which the channel ended, nil for an end in order.
func (m *mux) why(err error) error {
	m.under.mu.Lock()
	defer m.under.mu.Unlock()
	switch {
	case m.under.err == io.EOF || errors.Is(m.under.err, net.ErrClosed): //nolint:errorlint // the plain one is the end in order
		return nil
	case m.under.err != nil:
		return m.under.err
	}
	return err
}

// errReused: yamux forgets a stream that is reset at once, while its connection is still
// being made or broken off; so counts by id would miss those of a client that takes one again.
var errReused = errors.New("the other end uses the number of a connection again that is still there")

// add counts a stream in and returns how many there are.
func (m *mux) add(s *Stream) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := s.y.StreamID()
	if m.streams[id] != nil {
		return 0, errReused
	}
	m.streams[id] = s
	return len(m.streams), nil
}

func (m *mux) remove(s *Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, s.y.StreamID())
	m.takeLeave()
}

// leave answers the other end's goodbye, now or when all connections have ended.
func (m *mux) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = true
	m.takeLeave()
}

// takeLeave says goodbye when it is time, once: who does not read the answer gets no
// second one. mu is held.
func (m *mux) takeLeave() {
	if m.leaving && !m.left && len(m.streams) == 0 {
		m.left = true
		go m.sayReset(goodbye)
	}
}

// sayReset tells the other end that a connection is broken.
func (m *mux) sayReset(id uint32) {
	m.sending.Lock()
	defer m.sending.Unlock()
	m.control.Write(binary.BigEndian.AppendUint32(nil, id)) //nolint:errcheck // it fails with the session, and then so do all streams
}

// takeResets does what the other end says, until the session ends.
func (m *mux) takeResets(onGoodbye func()) {
	var b [4]byte
	for {
		if _, err := io.ReadFull(m.control, b[:]); err != nil {
			return
		}
		id := binary.BigEndian.Uint32(b[:])
		if id == goodbye {
			onGoodbye()
			continue
		}
		m.mu.Lock()
		s := m.streams[id]
		m.mu.Unlock()
		if s != nil {
			s.broken(true)
		}
	}
}
