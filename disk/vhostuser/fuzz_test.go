package vhostuser

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
)

func fuzzDevice(t testing.TB) *disk.Device {
	d, err := disk.NewDevice(disktest.New(64<<10), disk.Params{Key: append(make([]byte, 63), 1), SectorSize: 512, Length: 64 << 10, Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// addSeeds adds seeds to f, and fails when there are none.
func addSeeds(f *testing.F, seeds [][]byte) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

// le puts numbers of any width behind each other.
func le(vs ...any) []byte {
	var b []byte
	for _, v := range vs {
		switch v := v.(type) {
		case []byte:
			b = append(b, v...)
		default:
			b, _ = binary.Append(b, binary.LittleEndian, v)
		}
	}
	return b
}

// wireMessage is a message as FuzzSession reads it: kind says what descriptors it has.
func wireMessage(request uint32, kind byte, payload ...any) []byte {
	p := le(payload...)
	return le(kind, request, uint32(flagVersion|flagNeedReply), uint32(len(p)), p)
}

// setUp are the messages that start a queue.
func setUp() []byte {
	const user = uint64(0x10000)
	return le(
		wireMessage(reqSetProtocolFeatures, 0, uint64(protoOffered)),
		wireMessage(reqSetFeatures, 0, uint64(virtioVersion1|ringIndirect|ringEventIdx|vhostProtocol|blkFlush)),
		wireMessage(reqAddMemReg, 1, uint64(0), uint64(0), uint64(1<<16), user, uint64(0)),
		wireMessage(reqSetVringNum, 0, uint32(0), uint32(16)),
		wireMessage(reqSetVringAddr, 0, uint32(0), uint32(0), user, user+1024, user+512, uint64(0)),
		wireMessage(reqSetVringCall, 2, uint64(0)),
		wireMessage(reqSetVringKick, 2, uint64(0)),
		wireMessage(reqSetVringEnable, 0, uint32(0), uint32(1)),
	)
}

// FuzzSession gives a session any messages, with any descriptors.
func FuzzSession(f *testing.F) {
	seeds := [][]byte{setUp()}
	for request := range shapes {
		s := &shapes[request]
		if s.name == "" {
			continue
		}
		for _, kind := range []byte{0, 1, 2, 3} {
			seeds = append(seeds, le(setUp(), wireMessage(uint32(request), kind, make([]byte, s.min))))
		}
	}
	seeds = append(seeds,
		le(setUp(), wireMessage(reqGetVringBase, 0, uint64(0)), setUp()),
		le(setUp(), wireMessage(reqSetLogBase, 1, uint64(4096), uint64(0)), wireMessage(reqSetFeatures, 0, uint64(virtioVersion1|vhostLogAll))),
		le(wireMessage(reqSetProtocolFeatures, 0, uint64(protoOffered)), wireMessage(reqGetInflightFD, 0, uint64(0), uint64(0), uint16(1), uint16(16), uint32(0)),
			wireMessage(reqSetInflightFD, 1, uint64(4096), uint64(0), uint16(1), uint16(16), uint32(0)), setUp()),
		le(setUp(), wireMessage(reqSetMemTable, 1, uint32(1), uint32(0), uint64(0), uint64(1<<16), uint64(0x10000), uint64(0))),
	)
	addSeeds(f, seeds)
	dev := fuzzDevice(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		before := openFiles(t)
		x := newSession(&Server{Device: dev, Queues: 2})
		for range 64 {
			m, rest := nextMessage(t, in)
			if m == nil {
				break
			}
			in = rest
			a, err := x.handle(m)
			if err == nil {
				closeFD(&a.fd)
			}
			m.close()
		}
		x.close()
		if after := openFiles(t); after != before {
			t.Fatalf("%d descriptors before, %d after", before, after)
		}
	})
}

func nextMessage(t *testing.T, in []byte) (*message, []byte) {
	if len(in) < 13 {
		return nil, nil
	}
	m := &message{request: binary.LittleEndian.Uint32(in[1:]), flags: binary.LittleEndian.Uint32(in[5:])}
	size := binary.LittleEndian.Uint32(in[9:])
	for range min(int(in[0]>>4)+1, maxTable) {
		if fd := openKind(t, in[0]&15); fd >= 0 {
			m.fds = append(m.fds, fd)
		}
	}
	if checkHeader(m, size) != nil || int(size) > len(in)-13 {
		m.close()
		return nil, nil
	}
	m.payload = in[13:][:size]
	return m, in[13+size:]
}

func openKind(t *testing.T, kind byte) int {
	fd := -1
	var err error
	switch kind {
	case 1:
		if fd, err = unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC); err == nil {
			err = unix.Ftruncate(fd, 1<<17)
		}
	case 2:
		fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	case 3:
		fd, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	case 4:
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openFiles(t *testing.T) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// FuzzWire sends any bytes through a socket, and hangs up.
func FuzzWire(f *testing.F) {
	message := func(request uint32, payload ...any) []byte {
		p := le(payload...)
		return le(request, uint32(flagVersion), uint32(len(p)), p)
	}
	addSeeds(f, [][]byte{
		message(reqGetFeatures),
		le(message(reqSetProtocolFeatures, uint64(protoOffered)), message(reqGetConfig, uint32(0), uint32(8), uint32(0), uint64(0)), message(reqGetStatus)),
		le(uint32(reqGetConfig), uint32(flagVersion), uint32(0xffffffff)),
		le(message(reqSetOwner), byte(1)),
		le(message(99), message(reqGetFeatures)),
	})
	s := &Server{Device: fuzzDevice(f), Queues: 2}
	f.Fuzz(func(t *testing.T, in []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(pair[0]), "server")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		go func() {
			_, _ = unix.Write(pair[1], in[:min(len(in), 1<<16)])
			_ = unix.Shutdown(pair[1], unix.SHUT_WR)
		}()
		_ = s.serve(context.Background(), c.(*net.UnixConn))
	})
}

// FuzzInflight opens any record of requests under way.
func FuzzInflight(f *testing.F) {
	addSeeds(f, [][]byte{
		le(uint16(3), make([]byte, inflightBytes(16))),
		le(uint16(3), uint64(0), uint16(1), uint16(16), uint16(2), uint16(1), make([]byte, 256)),
		le(uint16(5), uint64(0), uint16(1), uint16(16), uint16(1), uint16(3), byte(1), make([]byte, 5), uint16(0), uint64(7), byte(1), make([]byte, 5), uint16(0), uint64(3), make([]byte, 224)),
		le(uint16(0), uint64(0), uint16(2), make([]byte, 300)),
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 2+16 {
			return
		}
		const size = 16
		used := binary.LittleEndian.Uint16(in)
		r, heads, err := openInflight(append([]byte(nil), in[2:]...), size, used)
		if err != nil {
			return
		}
		seen := map[uint16]bool{}
		for _, h := range heads {
			if h >= size || seen[h] {
				t.Fatalf("heads %v", heads)
			}
			seen[h] = true
		}
		// What is found once is found again, until it is done.
		for _, h := range heads {
			r.done(h)
		}
		r.mark()
		r.published(heads, used+uint16(len(heads)))
		if left := r.again(); len(left) > 0 {
			t.Fatalf("%v is left", left)
		}
	})
}

// TestCorpus: the findings and seeds that are kept as files are there.
func TestCorpus(t *testing.T) {
	for _, target := range []string{"FuzzSession", "FuzzWire", "FuzzInflight", "FuzzRing", "FuzzRingMemory"} {
		files, err := filepath.Glob("testdata/fuzz/" + target + "/*")
		if err != nil || len(files) == 0 {
			t.Errorf("no corpus of %s: %v", target, err)
		}
	}
}
