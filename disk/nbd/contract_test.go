package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/disktest/contract"
)

// front is a small client with any number of requests under way, straight from the
// protocol's text.
type front struct {
	nc   net.Conn
	size int64

	mu    sync.Mutex
	next  uint64
	calls map[uint64]*call // by cookie; guarded by mu
	gone  error            // guarded by mu
}

type call struct {
	buf  []byte
	off  int64
	err  error
	done chan struct{}
}

func newFront(t testing.TB, d *disk.Device, structured bool) *front {
	t.Helper()
	path, _ := serve(t, &Server{Exports: []Export{{Name: "disk", Device: d}}})
	c := dial(t, path)
	c.nc.SetDeadline(time.Time{})
	c.write(uint32(3))
	if structured {
		c.write(option2(optStructuredReply, ""))
		c.expectReply(optStructuredReply, repAck)
	}
	c.write(option2(optGo, infoData("disk")))
	data := c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repAck)
	f := &front{nc: c.nc, size: int64(binary.BigEndian.Uint64(data[2:])), calls: map[uint64]*call{}}
	go f.receive()
	return f
}

// receive takes replies until the connection ends.
func (f *front) receive() {
	err := f.replies()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = err
	for _, c := range f.calls {
		c.err = err
		close(c.done)
	}
	f.calls = nil
}

func (f *front) replies() error {
	head := make([]byte, 20)
	for {
		if _, err := io.ReadFull(f.nc, head[:16]); err != nil {
			return err
		}
		cookie := binary.BigEndian.Uint64(head[8:])
		f.mu.Lock()
		c := f.calls[cookie]
		f.mu.Unlock()
		if c == nil {
			return fmt.Errorf("a reply to %d, which nobody asked", cookie)
		}
		last := true
		switch binary.BigEndian.Uint32(head) {
		case magicSimple:
			if e := binary.BigEndian.Uint32(head[4:]); e != 0 {
				c.err = unix.Errno(e)
			} else if _, err := io.ReadFull(f.nc, c.buf); err != nil {
				return err
			}
		case magicChunk:
			if _, err := io.ReadFull(f.nc, head[16:]); err != nil {
				return err
			}
			last = binary.BigEndian.Uint16(head[4:])&chunkDone != 0
			if err := c.chunk(f.nc, binary.BigEndian.Uint16(head[6:]), binary.BigEndian.Uint32(head[16:])); err != nil {
				return err
			}
		default:
			return fmt.Errorf("reply %x", head)
		}
		if last {
			f.mu.Lock()
			delete(f.calls, cookie)
			f.mu.Unlock()
			close(c.done)
		}
	}
}

func (c *call) chunk(r io.Reader, kind uint16, n uint32) error {
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return err
	}
	switch {
	case kind == chunkOffsetData && n > 8:
		off := int64(binary.BigEndian.Uint64(p)) - c.off
		if off < 0 || off+int64(n)-8 > int64(len(c.buf)) {
			return fmt.Errorf("data at %d in a reply of %d bytes", off, len(c.buf))
		}
		copy(c.buf[off:], p[8:])
	case kind == chunkError && n >= 6:
		c.err = unix.Errno(binary.BigEndian.Uint32(p))
	case kind != 0 || n != 0:
		return fmt.Errorf("chunk of kind %d with %d bytes", kind, n)
	}
	return nil
}

func (f *front) do(flags, command int, off, n int64, in, out []byte) error {
	c := &call{buf: in, off: off, done: make(chan struct{})}
	f.mu.Lock()
	if f.gone != nil {
		f.mu.Unlock()
		return f.gone
	}
	f.next++
	cookie := f.next
	f.calls[cookie] = c
	_, err := f.nc.Write(append(req(flags, command, cookie, uint64(off), uint32(n)), out...))
	f.mu.Unlock()
	if err != nil {
		return err
	}
	<-c.done
	return c.err
}

func (f *front) Size() int64 { return f.size }

func (f *front) ReadAt(p []byte, off int64) (int, error) {
	if err := f.do(0, cmdRead, off, int64(len(p)), p, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *front) WriteAt(p []byte, off int64) (int, error) {
	if err := f.do(0, cmdWrite, off, int64(len(p)), nil, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *front) WriteForced(p []byte, off int64) error {
	return f.do(cfFUA, cmdWrite, off, int64(len(p)), nil, p)
}

func (f *front) WriteZeroes(off, n int64) error {
	return f.do(0, cmdWriteZeroes, off, n, nil, nil)
}

func (f *front) WriteZeroesForced(off, n int64) error {
	return f.do(cfFUA, cmdWriteZeroes, off, n, nil, nil)
}

func (f *front) Trim(off, n int64) error { return f.do(0, cmdTrim, off, n, nil, nil) }
func (f *front) Flush() error            { return f.do(0, cmdFlush, 0, 0, nil, nil) }

// TestContract: what the device promises holds through this front end. Without
// structured replies only reads differ.
func TestContract(t *testing.T) {
	backs := map[string]contract.Back{
		"memory": func(_ testing.TB, size int64) disk.Backend { return disktest.New(size) },
	}
	front := func(structured bool) contract.Front {
		return contract.Front{Unit: 1, Errno: true, Serve: func(t testing.TB, d *disk.Device) contract.Disk {
			return newFront(t, d, structured)
		}}
	}
	t.Run("structured", func(t *testing.T) { contract.Run(t, front(true), backs) })
	t.Run("simple", func(t *testing.T) { contract.RunOver(t, front(false), backs) })
}
