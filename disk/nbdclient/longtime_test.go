package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// The tests in this file run on a clock that goes as fast as nothing happens.

// fakeServer keeps a disk in memory, can be gone, and can be slow.
type fakeServer struct {
	mu    sync.Mutex
	disk  []byte
	safe  []byte // what was flushed; nil: nobody asks
	gone  bool
	slow  time.Duration // before each answer
	conns []net.Conn
	dials int
}

var errGone = errors.New("nobody listens")

func (s *fakeServer) dial(context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	if s.gone {
		return nil, errGone
	}
	client, server := net.Pipe()
	s.conns = append(s.conns, server)
	go s.serve(server)
	return client, nil
}

// leave ends all connections, as a server that is killed does.
func (s *fakeServer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for _, nc := range s.conns {
		nc.Close()
	}
	s.conns = nil
}

// crash is leave, and loses about half of the sectors that were not flushed.
func (s *fakeServer) crash(r *rand.Rand) {
	s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(s.disk); i += 512 {
		if r.IntN(2) == 0 {
			copy(s.disk[i:i+512], s.safe[i:])
		}
	}
	copy(s.safe, s.disk)
}

func (s *fakeServer) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = false
}

func (s *fakeServer) serve(nc net.Conn) {
	defer nc.Close()
	go nc.Write(goodHandshake)
	if _, err := io.CopyN(io.Discard, nc, 4+16+16+4+2+2); err != nil {
		return
	}
	head := make([]byte, proto.RequestSize)
	for {
		if _, err := io.ReadFull(nc, head); err != nil {
			return
		}
		cookie, off, n := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint64(head[16:]), binary.BigEndian.Uint32(head[24:])
		command := binary.BigEndian.Uint16(head[6:])
		if command == proto.CmdDisconnect {
			return
		}
		data := make([]byte, n)
		if command == proto.CmdWrite {
			if _, err := io.ReadFull(nc, data); err != nil {
				return
			}
		}
		s.mu.Lock()
		slow := s.slow
		s.mu.Unlock()
		time.Sleep(slow)
		s.mu.Lock()
		answer := bin(uint32(proto.MagicSimple), uint32(0), cookie)
		switch command {
		case proto.CmdRead:
			answer = chunk(1, 1, cookie, off, s.disk[off:][:n])
		case proto.CmdWrite:
			copy(s.disk[off:], data)
		case proto.CmdFlush:
			copy(s.safe, s.disk)
		}
		s.mu.Unlock()
		if _, err := nc.Write(answer); err != nil {
			return
		}
	}
}

func inBubble(t *testing.T, f func(t *testing.T, s *fakeServer, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{disk: make([]byte, 1<<20)}
		c, err := Open(t.Context(), Config{Dial: s.dial})
		if err != nil {
			t.Fatal(err)
		}
		f(t, s, c)
		c.Close()
		s.leave()
		synctest.Wait()
	})
}

// A storage that is gone for ten minutes costs ten minutes, and a few seconds, and
// nothing else: reads, writes and flushes wait.
func TestGoneForTenMinutes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fakeServer, c *Client) {
		p := bytes.Repeat([]byte{7}, 4096)
		if _, err := c.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		s.leave()
		began := time.Now()
		var wg sync.WaitGroup
		for i := range int64(4) {
			wg.Go(func() {
				if _, err := c.WriteAt(p, 4096*(1+i)); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				got := make([]byte, 4096)
				if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := c.Sync(); err != nil {
					t.Error(err)
				}
			})
		}
		time.AfterFunc(10*time.Minute, s.back)
		wg.Wait()
		if d := time.Since(began); d < 10*time.Minute || d > 10*time.Minute+2*mostBackoff {
			t.Errorf("waited for %v", d)
		}
		// It was looked for all the time, and not more often than is good.
		if s.dials < 80 || s.dials > 400 {
			t.Errorf("%d attempts to connect", s.dials)
		}
		if st := c.Stats(); st.Errors != 0 || st.LostWrites != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// After an hour requests fail, each an hour after it began; those that come later
// wait for an hour of their own.
func TestGoneForHours(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fakeServer, c *Client) {
		s.leave()
		for range 2 {
			began := time.Now()
			_, err := c.ReadAt(make([]byte, 512), 0)
			if d := time.Since(began); !errors.Is(err, unix.EIO) || d < DefaultOutage || d > DefaultOutage+DefaultOutage/8 {
				t.Errorf("%v after %v", err, d)
			}
		}
		s.back()
		if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
			t.Error(err)
		}
	})
}

// A storage that takes ten minutes for each answer is slow, and not gone.
func TestSlowForTenMinutes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fakeServer, c *Client) {
		s.mu.Lock()
		s.slow = 10 * time.Minute
		s.mu.Unlock()
		p := make([]byte, 4096)
		if _, err := c.WriteAt(p, 0); err != nil {
			t.Error(err)
		}
		if err := c.Sync(); err != nil {
			t.Error(err)
		}
		if st := c.Stats(); st.Lost != 0 || st.Stalls != 0 || st.Resent != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A Client with nothing to do does nothing: no timer runs.
func TestIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, s *fakeServer, c *Client) {
		if _, err := c.WriteAt(make([]byte, 512), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(DefaultOutage) // the watchdog looks once more
		synctest.Wait()
		if c.armed.Load() {
			t.Error("the watchdog runs while nothing is under way")
		}
	})
}

// A server that crashes again and again, and loses what it likes of what was not
// flushed: a flush that succeeds is true, and what is read is what was written, or
// an error where the server has something else.
func TestCrashes(t *testing.T) {
	for seed := range uint64(20) {
		inBubble(t, func(t *testing.T, s *fakeServer, c *Client) {
			r := rand.New(rand.NewPCG(seed, 0))
			s.safe = bytes.Clone(s.disk)
			const sectors = 64
			var want [sectors]byte
			sector := func(v byte) []byte { return bytes.Repeat([]byte{v}, 512) }
			for step := range 2000 {
				at := r.Int64N(sectors)
				switch k := r.IntN(100); {
				case k < 50:
					want[at] = byte(1 + r.IntN(255))
					if _, err := c.WriteAt(sector(want[at]), at*512); err != nil {
						t.Fatal(err)
					}
				case k < 80:
					p := make([]byte, 512)
					_, err := c.ReadAt(p, at*512)
					same := bytes.Equal(s.disk[at*512:][:512], sector(want[at]))
					if err == nil && !bytes.Equal(p, sector(want[at])) || (err != nil) == same {
						t.Fatalf("seed %d, step %d: sector %d: %v; the server has it: %v", seed, step, at, err, same)
					}
				case k < 95:
					lost := 0
					for i, v := range want {
						if !bytes.Equal(s.disk[i*512:][:512], sector(v)) {
							lost++
						}
					}
					if err := c.Sync(); err == nil {
						for i, v := range want {
							_, known := c.ledger.bad[int64(i)]
							if !known && !bytes.Equal(s.safe[i*512:][:512], sector(v)) {
								t.Fatalf("seed %d, step %d: sector %d is flushed, and not there", seed, step, i)
							}
						}
					} else if lost == 0 {
						t.Fatalf("seed %d, step %d: nothing was lost: %v", seed, step, err)
					}
				default:
					s.crash(r)
					time.AfterFunc(time.Duration(r.Int64N(int64(time.Minute))), s.back)
				}
			}
			if st := c.Stats(); st.LostWrites == 0 || st.RewrittenBytes == 0 {
				t.Fatalf("%+v", st)
			}
		})
	}
}
