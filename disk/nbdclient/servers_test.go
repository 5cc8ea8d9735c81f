package nbdclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
)

// The tests in this file use the servers that people have.

func nbdkit(t *testing.T, args ...string) *nbdtest.Server {
	t.Helper()
	return nbdtest.Nbdkit(t, args...)
}

func qemuNBD(t *testing.T, args ...string) *nbdtest.Server {
	t.Helper()
	return nbdtest.Start(t, "qemu-utils", append([]string{"qemu-nbd", "--persistent", "--socket", "SOCKET", "--format", "raw"}, args...)...)
}

func storageDaemon(t *testing.T, path string) *nbdtest.Server {
	t.Helper()
	return nbdtest.Start(t, "qemu-system-common", "qemu-storage-daemon", "--blockdev", "file,node-name=f,filename="+path+",discard=unmap",
		"--nbd-server", "addr.type=unix,addr.path=SOCKET,max-connections=0", "--export", "nbd,id=e,node-name=f,name=,writable=on")
}

func configOf(s *nbdtest.Server) Config {
	u := &URI{Network: "unix", Address: s.Path}
	return Config{Dial: u.Dial}
}

func open(t *testing.T, c Config) *Client {
	t.Helper()
	client, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return client
}

func blank(t *testing.T, size int64) string {
	t.Helper()
	return nbdtest.Blank(t, size)
}

// model writes at random from several goroutines, each on sectors of its own, and
// knows what must be there.
type model struct {
	size    int64
	workers int
	want    []byte
	fail    atomic.Pointer[error]
	ops     atomic.Int64
}

func newModel(size int64, workers int) *model {
	return &model{size: size, workers: workers, want: make([]byte, size)}
}

func (m *model) run(c *Client, stop <-chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	share := m.size / int64(m.workers)
	for w := range m.workers {
		wg.Go(func() {
			r := mrand.New(mrand.NewPCG(uint64(w), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := int64(1+r.IntN(32)) * 512
				if r.IntN(20) == 0 {
					n = 256 << 10
				}
				off := int64(w)*share + r.Int64N((share-n)/512)*512
				if err := m.one(c, r, off, n); err != nil {
					m.fail.CompareAndSwap(nil, &err)
					return
				}
				m.ops.Add(1)
			}
		})
	}
	return &wg
}

func (m *model) one(c *Client, r *mrand.Rand, off, n int64) error {
	switch k := r.IntN(20); {
	case k == 0:
		return c.Sync()
	case k < 10:
		p := m.want[off : off+n]
		for i := 0; i < len(p); i += 8 {
			binary.LittleEndian.PutUint64(p[i:], r.Uint64())
		}
		_, err := c.WriteAt(p, off)
		return err
	}
	p := make([]byte, n)
	if _, err := c.ReadAt(p, off); err != nil {
		return err
	}
	if !bytes.Equal(p, m.want[off:off+n]) {
		return fmt.Errorf("%d bytes at %d are not what was written", n, off)
	}
	return nil
}

func (m *model) check(t *testing.T, c *Client) {
	t.Helper()
	if err := m.fail.Load(); err != nil {
		t.Fatal(*err)
	}
	got := make([]byte, m.size)
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, m.want) {
		t.Fatal("content differs at the end")
	}
}

// exercise runs the model until it has done ops operations.
func (m *model) exercise(t *testing.T, c *Client, ops int64) {
	t.Helper()
	stop := make(chan struct{})
	wg := m.run(c, stop)
	for m.ops.Load() < ops && m.fail.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	m.check(t, c)
}

const mib = 1 << 20

func TestServers(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *nbdtest.Server{
		"nbdkit memory":     func(t *testing.T) *nbdtest.Server { return nbdkit(t, "memory", "16M") },
		"nbdkit file":       func(t *testing.T) *nbdtest.Server { return nbdkit(t, "file", blank(t, 16*mib)) },
		"nbdkit simple":     func(t *testing.T) *nbdtest.Server { return nbdkit(t, "--no-sr", "memory", "16M") },
		"nbdkit one thread": func(t *testing.T) *nbdtest.Server { return nbdkit(t, "--threads=1", "memory", "16M") },
		"nbdkit one conn": func(t *testing.T) *nbdtest.Server {
			return nbdkit(t, "--filter=multi-conn", "memory", "16M", "multi-conn-mode=disable")
		},
		"nbdkit delay": func(t *testing.T) *nbdtest.Server {
			return nbdkit(t, "--filter=delay", "memory", "16M", "rdelay=3ms", "wdelay=2ms")
		},
		"nbdkit retry": func(t *testing.T) *nbdtest.Server {
			return nbdkit(t, "--filter=retry", "--filter=error", "memory", "16M", "error=EIO", "error-rate=1%", "retries=9", "retry-delay=1", "retry-exponential=no")
		},
		"nbdkit small blocks": func(t *testing.T) *nbdtest.Server {
			return nbdkit(t, "--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error")
		},
		"nbdkit fua only": func(t *testing.T) *nbdtest.Server {
			return nbdkit(t, "--filter=fua", "file", blank(t, 16*mib), "fuamode=force")
		},
		"qemu-nbd": func(t *testing.T) *nbdtest.Server {
			return qemuNBD(t, "--shared=8", "--discard=unmap", blank(t, 16*mib))
		},
		"qemu-nbd one conn":   func(t *testing.T) *nbdtest.Server { return qemuNBD(t, "--shared=1", blank(t, 16*mib)) },
		"qemu-storage-daemon": func(t *testing.T) *nbdtest.Server { return storageDaemon(t, blank(t, 16*mib)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, configOf(start(t)))
			if c.Size() != 16*mib {
				t.Fatalf("size %d", c.Size())
			}
			newModel(16*mib, 8).exercise(t, c, 1000)
			if err := c.PunchHole(4*mib, mib); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				t.Fatal(err)
			}
			s := c.Stats()
			t.Logf("%+v", s)
			if s.Lost+s.Violations+s.Stalls+s.Errors != 0 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

// A server that is killed and started again under load is not noticed but by its
// pauses: all data stays in the page cache.
func TestServerKilled(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, path string) *nbdtest.Server{
		"nbdkit":              func(t *testing.T, path string) *nbdtest.Server { return nbdkit(t, "file", path) },
		"nbdkit simple":       func(t *testing.T, path string) *nbdtest.Server { return nbdkit(t, "--no-sr", "file", path) },
		"qemu-nbd":            func(t *testing.T, path string) *nbdtest.Server { return qemuNBD(t, "--shared=8", path) },
		"qemu-storage-daemon": storageDaemon,
	} {
		t.Run(name, func(t *testing.T) {
			path := blank(t, 16*mib)
			s := start(t, path)
			c := open(t, configOf(s))
			m := newModel(16*mib, 16)
			stop := make(chan struct{})
			wg := m.run(c, stop)
			for range 4 {
				n := m.ops.Load()
				for m.ops.Load() < n+300 && m.fail.Load() == nil {
					time.Sleep(time.Millisecond)
				}
				s.Kill()
				time.Sleep(20 * time.Millisecond)
				s.Start()
			}
			close(stop)
			wg.Wait()
			if err := c.Sync(); err != nil {
				t.Fatal(err)
			}
			m.check(t, c)
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, m.want) {
				t.Fatalf("the file is not what was written: %v", err)
			}
			st := c.Stats()
			t.Logf("%+v", st)
			if st.Lost < 4 || st.Errors != 0 || st.LostWrites != 0 || st.Violations != 0 {
				t.Fatalf("%+v", st)
			}
		})
	}
}

// A server that forgets what was not flushed (nbdkit's memory plugin forgets all)
// must not have its flush believed.
func TestServerForgets(t *testing.T) {
	s := nbdkit(t, "memory", "16M")
	c := open(t, configOf(s))
	data := make([]byte, 64<<10)
	rand.Read(data)
	if _, err := c.WriteAt(data, mib); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Start()
	// A read in between does not return the old data either.
	p := make([]byte, 4096)
	if _, err := c.ReadAt(p, mib+8192); !errors.Is(err, unix.EIO) {
		t.Fatalf("read of lost data: %v", err)
	}
	if _, err := c.ReadAt(p, 0); err != nil {
		t.Fatalf("read beside it: %v", err)
	}
	if err := c.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("flush after the loss: %v", err)
	}
	if err := c.Sync(); err != nil {
		t.Fatalf("the next flush: %v", err)
	}
	if _, err := c.ReadAt(p, mib); !errors.Is(err, unix.EIO) {
		t.Fatalf("read of lost data after the flush: %v", err)
	}
	if _, err := c.WriteAt(data, mib); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAt(p, mib); err != nil || !bytes.Equal(p, data[:4096]) {
		t.Fatalf("read of what was written anew: %v", err)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats(); st.LostWrites != 1 {
		t.Fatalf("%+v", st)
	}
}

// What was flushed is not looked at again, and what was not and is there is
// written once more.
func TestRewritten(t *testing.T) {
	path := blank(t, 16*mib)
	s := nbdkit(t, "file", path)
	c := open(t, configOf(s))
	data := make([]byte, mib)
	rand.Read(data)
	if _, err := c.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteAt(data[:8192], 8*mib); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Start()
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	// Again for every connection that is found broken later.
	if st := c.Stats(); st.RewrittenBytes == 0 || st.RewrittenBytes%8192 != 0 || st.RewrittenBytes >= mib || st.LostWrites != 0 {
		t.Fatalf("%+v", st)
	}
}

// More unflushed sectors than the ledger may hold make flushes of its own.
func TestEarlyFlush(t *testing.T) {
	s := nbdkit(t, "file", blank(t, 16*mib))
	config := configOf(s)
	config.MaxUnflushed = 64
	c := open(t, config)
	m := newModel(16*mib, 8)
	m.exercise(t, c, 2000)
	if st := c.Stats(); st.Flushes < 20 {
		t.Fatalf("%+v", st)
	}
}

func TestErrors(t *testing.T) {
	for number, want := range map[string]error{"EIO": unix.EIO, "ENOSPC": unix.ENOSPC, "EPERM": unix.EPERM, "EINVAL": unix.EINVAL, "ENOMEM": unix.ENOMEM} {
		for _, sr := range []string{"--no-sr", "--verbose"} {
			c := open(t, configOf(nbdkit(t, sr, "--filter=error", "memory", "1M", "error="+number, "error-rate=100%")))
			p := make([]byte, 4096)
			if n, err := c.ReadAt(p, 0); n != 0 || !errors.Is(err, want) {
				t.Fatalf("%s %s: read %d, %v", number, sr, n, err)
			}
			if n, err := c.WriteAt(p, 0); n != 0 || !errors.Is(err, want) {
				t.Fatalf("%s %s: write %d, %v", number, sr, n, err)
			}
			if st := c.Stats(); st.Lost != 0 || st.Errors != 2 {
				t.Fatalf("%+v", st)
			}
		}
	}
}

// A flush that failed is not made good by one that succeeds: what it was to cover
// is written again.
func TestFlushFails(t *testing.T) {
	dir := t.TempDir()
	trigger := filepath.Join(dir, "fail")
	script := filepath.Join(dir, "plugin.sh")
	disk := blank(t, mib)
	err := os.WriteFile(script, []byte(`#!/bin/sh
case "$1" in
get_size) echo 1M ;;
pread) dd if=`+disk+` iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none ;;
pwrite) dd of=`+disk+` oflag=seek_bytes seek=$4 conv=notrunc status=none ;;
can_write|can_flush) exit 0 ;;
flush) if [ -e `+trigger+` ]; then echo "EIO the disk is broken" >&2; exit 1; fi ;;
*) exit 2 ;;
esac
`), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, configOf(nbdkit(t, "sh", script)))
	p := make([]byte, 4096)
	rand.Read(p)
	if _, err := c.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trigger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("%v", err)
	}
	if err := os.Remove(trigger); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats(); st.RewrittenBytes != 4096 {
		t.Fatalf("%+v", st)
	}
}

func TestOutage(t *testing.T) {
	s := nbdkit(t, "memory", "1M")
	config := configOf(s)
	config.Outage = 300 * time.Millisecond
	c := open(t, config)
	p := make([]byte, 4096)
	s.Kill()
	began := time.Now()
	if _, err := c.ReadAt(p, 0); !errors.Is(err, unix.EIO) {
		t.Fatalf("%v", err)
	}
	if time.Since(began) < config.Outage {
		t.Fatal("did not wait")
	}
	if _, err := c.WriteAt(p, 0); !errors.Is(err, unix.EIO) {
		t.Fatalf("%v", err)
	}
	s.Start()
	for range 100 {
		if _, err := c.ReadAt(p, 0); err == nil {
			return
		}
	}
	t.Fatal("is not served again")
}

// A server that takes requests and answers none.
func TestStall(t *testing.T) {
	s := nbdkit(t, "memory", "1M")
	config := configOf(s)
	config.Outage = 300 * time.Millisecond
	c := open(t, config)
	s.Stop()
	p := make([]byte, 4096)
	_, err := c.ReadAt(p, 0)
	if !errors.Is(err, unix.EIO) {
		t.Fatalf("%v", err)
	}
	if c.Stats().Stalls == 0 {
		t.Fatalf("%+v", c.Stats())
	}
	s.Continue()
	for range 100 {
		if _, err := c.ReadAt(p, 0); err == nil {
			return
		}
	}
	t.Fatal("is not served again")
}

func TestCloseEndsWaiting(t *testing.T) {
	s := nbdkit(t, "memory", "1M")
	c := open(t, configOf(s))
	p := make([]byte, 4096)
	if _, err := c.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	errs := make(chan error, 3)
	go func() { _, err := c.ReadAt(make([]byte, 512), 0); errs <- err }()
	go func() { _, err := c.WriteAt(p, 8192); errs <- err }()
	go func() { errs <- c.Sync() }()
	for c.outstanding.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	for range 3 {
		if err := <-errs; !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	}
	if _, err := c.ReadAt(p, 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := c.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestSizeChanges(t *testing.T) {
	path := blank(t, mib)
	s := nbdkit(t, "file", path)
	c := open(t, configOf(s))
	p := make([]byte, 4096)
	if _, err := c.WriteAt(p, mib); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*mib); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Resized(); n != 2*mib || err != nil {
		t.Fatal(n, err)
	}
	if _, err := c.WriteAt(p, mib); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := os.Truncate(path, mib); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if _, err := c.ReadAt(p, 0); !errors.Is(err, ErrRefused) || !errors.Is(err, unix.EIO) {
		t.Fatalf("read of a disk that shrank: %v", err)
	}
	s.Kill()
	if err := os.Truncate(path, 2*mib); err != nil {
		t.Fatal(err)
	}
	s.Start()
	for range 400 {
		if _, err := c.ReadAt(p, 0); err == nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("is not served again")
}

func TestOpenRefuses(t *testing.T) {
	readOnly := nbdkit(t, "--readonly", "memory", "1M")
	big := nbdkit(t, "--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096", "blocksize-preferred=4096")
	noFlush := nbdkit(t, "eval", "get_size=echo 1M", "pread=dd if=/dev/zero count=$3 iflag=count_bytes status=none", "pwrite=cat >/dev/null", "can_write=exit 0")
	named := qemuNBD(t, "--export-name=a", blank(t, mib))
	for name, x := range map[string]struct {
		config Config
		want   string
	}{
		"read-only":     {configOf(readOnly), "read-only"},
		"minimum block": {configOf(big), "blocks of at least 4096"},
		"no flush":      {configOf(noFlush), "neither flush nor FUA"},
		"export":        {configOf(named), "no export"},
		"nobody":        {Config{Dial: (&URI{Network: "unix", Address: "/nonexistent/x"}).Dial}, "connect"},
		"no dial":       {Config{}, "no way"},
		"sector":        {Config{Dial: (&URI{}).Dial, SectorSize: 1000}, "sector size"},
		"connections":   {Config{Dial: (&URI{}).Dial, Connections: 99}, "connections"},
	} {
		if c, err := Open(t.Context(), x.config); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				c.Close()
			}
		}
	}
	config := configOf(readOnly)
	config.ReadOnly = true
	c := open(t, config)
	if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
		t.Error(err)
	}
	if _, err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	config = configOf(big)
	config.SectorSize = 4096
	c = open(t, config)
	newModel4k := make([]byte, 4096)
	if _, err := c.WriteAt(newModel4k, 8192); err != nil {
		t.Error(err)
	}
	// Headers are read in odd pieces.
	if n, err := c.ReadAt(make([]byte, 1000), 4000); n != 1000 || err != nil {
		t.Error(n, err)
	}
	if _, err := c.WriteAt(newModel4k[:512], 512); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

func TestDialEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s")) // which greets nobody
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Open(ctx, Config{Dial: (&URI{Network: "unix", Address: l.Addr().String()}).Dial}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
