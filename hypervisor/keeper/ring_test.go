package keeper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testRing(t testing.TB, size int) (*os.File, *ringWriter) {
	t.Helper()
	f, err := CreateRing(filepath.Join(t.TempDir(), "ring"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w, err := openRingWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	return f, w
}

func TestRing(t *testing.T) {
	const size = 4096
	f, w := testRing(t, size)
	var all []byte
	for i := range 400 {
		line := fmt.Appendf(nil, "line %d of the console\n", i)
		all = append(all, line...)
		w.Write(line)
		for _, offset := range []int{0, len(all) - 10, len(all), len(all) + 5, max(0, len(all)-size), max(0, len(all)-size-1)} {
			data, end, lost, err := ReadRing(f, uint64(offset), 1<<20)
			if err != nil || end != uint64(len(all)) {
				t.Fatalf("end %d, %v", end, err)
			}
			wantLost := max(0, len(all)-size-offset)
			want := []byte{}
			if offset < len(all) {
				want = all[offset+wantLost:]
			} else {
				wantLost = 0
			}
			if lost != uint64(wantLost) || !bytes.Equal(data, want) {
				t.Fatalf("%d written, offset %d: %d bytes, %d lost; want %d, %d", len(all), offset, len(data), lost, len(want), wantLost)
			}
		}
	}
	data, _, _, _ := ReadRing(f, uint64(len(all)-100), 7)
	if !bytes.Equal(data, all[len(all)-100:][:7]) {
		t.Fatalf("limit: %q", data)
	}
	// Longer than the ring at once; and what is there survives another writer.
	w.Write(bytes.Repeat([]byte("0123456789"), 1000))
	w2, err := openRingWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	w2.Write([]byte("end"))
	data, end, lost, err := ReadRing(f, 0, 1<<20)
	if err != nil || end != uint64(len(all)+10003) || lost != end-size || !bytes.HasSuffix(data, []byte("6789end")) || len(data) != size {
		t.Fatalf("%d bytes, end %d, lost %d, %v", len(data), end, lost, err)
	}
}

// What a reader gets while a writer overtakes it is what was written there.
func TestRingRace(t *testing.T) {
	f, w := testRing(t, 4096)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 8)
		for n := uint64(0); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			binary.BigEndian.PutUint64(b, n)
			w.Write(b)
			if n%64 == 0 {
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
	var offset uint64
	for range 3000 {
		data, _, lost, err := ReadRing(f, offset, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		offset += lost
		for len(data) >= 8 {
			if offset%8 != 0 {
				skip := min(8-offset%8, uint64(len(data)))
				offset, data = offset+skip, data[skip:]
				continue
			}
			if got := binary.BigEndian.Uint64(data); got != offset/8 {
				t.Fatalf("at %d: %d, want %d", offset, got, offset/8)
			}
			offset, data = offset+8, data[8:]
		}
	}
	close(stop)
	<-done
}

func TestRingDamaged(t *testing.T) {
	for name, damage := range map[string]func(*os.File){
		"magic":    func(f *os.File) { f.WriteAt([]byte("X"), 0) },
		"capacity": func(f *os.File) { f.WriteAt(bytes.Repeat([]byte{0xff}, 8), 8) },
		"reserved": func(f *os.File) { f.WriteAt(bytes.Repeat([]byte{0xff}, 8), 16) },
		"written":  func(f *os.File) { f.WriteAt(bytes.Repeat([]byte{0xff}, 8), 24) },
		"short":    func(f *os.File) { f.Truncate(ringHeader) },
		"empty":    func(f *os.File) { f.Truncate(0) },
	} {
		f, err := CreateRing(filepath.Join(t.TempDir(), "ring"), 4096)
		if err != nil {
			t.Fatal(err)
		}
		damage(f)
		if _, _, _, err := ReadRing(f, 0, 10); err == nil {
			t.Errorf("%s: read", name)
		}
		if _, err := openRingWriter(f); err == nil {
			t.Errorf("%s: opened", name)
		}
		f.Close()
	}
}

func TestConsole(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	if err := p.AllowPeer(t.Context(), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if isRoot() { // this process has the pid, but not the uid
		c, err := net.Dial("unix", p.ConsolePath())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("forged"))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("the console sent something")
		}
	}
	allowAny(t, p)
	say := func(p *Process, text string) {
		t.Helper()
		cmd := as(exec.Command("/proc/self/exe", "say", p.ConsolePath()), x.Config.QEMUUID)
		cmd.Stdin = strings.NewReader(text)
		output(t, cmd)
	}
	said := func(p *Process, want string) {
		t.Helper()
		waitFor(t, want, func() bool {
			data, end, lost, err := p.Console(0, 1<<20)
			return err == nil && lost == 0 && int(end) == len(data) && string(data) == want
		})
	}
	say(p, "hello\n")
	said(p, "hello\n")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	said(p, "hello\n")
	x.Sockets = p.Sockets()
	q := x.start(t)
	allowAny(t, q)
	say(q, "again\n")
	said(q, "hello\nagain\n")
	r, err := Adopt(x.Dir, q.PID(), q.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	said(r, "hello\nagain\n")
}

// A real QEMU: disk and console, keeper killed and replaced, QEMU reconnects.
func TestQEMU(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	qemu := tool(t, "qemu-system-x86_64", "qemu-system-x86")
	cmd := as(exec.Command(qemu, "-nodefaults", "-no-user-config", "-machine", "pc,accel=tcg", "-m", "32", "-S", "-display", "none",
		"-blockdev", "driver=nbd,node-name=d,server.type=unix,server.path="+p.DiskPath("root")+",export=root,reconnect-delay=60",
		"-device", "virtio-blk-pci,drive=d",
		"-chardev", "socket,id=c,path="+p.ConsolePath()+",reconnect=1", "-device", "isa-serial,chardev=c"), x.Config.QEMUUID)
	cmd.Args = append(cmd.Args, "-monitor", "stdio")
	cmd.Stderr = os.Stderr
	monitor, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said safeBuffer
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	// As the daemon does it: told after QEMU was started and began to connect.
	if err := p.AllowPeer(t.Context(), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	connected := func(p *Process) func() bool {
		return func() bool {
			s, err := p.Stats(t.Context())
			return err == nil && s.Disks[0].NBD.Open == 1 && s.Disks[0].NBD.Accepted > 0
		}
	}
	waitFor(t, "QEMU's first connection", connected(p))
	// Accepted is not yet negotiated, and QEMU gives up when its first attempt fails;
	// its monitor speaks after that.
	waitFor(t, "QEMU's monitor", func() bool { return strings.Contains(said.String(), "(qemu)") })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	x.Sockets = p.Sockets()
	q := x.start(t)
	if err := q.AllowPeer(t.Context(), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(monitor, `qemu-io d "read 0 4k"`) // QEMU connects again when it has something to ask
	waitFor(t, "QEMU's second connection", connected(q))
	waitFor(t, "the read", func() bool { return strings.Contains(said.String(), "read 4096/4096 bytes") })
	waitFor(t, "the console", func() bool {
		said.Reset()
		fmt.Fprintln(monitor, "info chardev")
		time.Sleep(100 * time.Millisecond)
		s := said.String()
		return strings.Contains(s, "c: filename=unix:") && !strings.Contains(s, "c: filename=disconnected")
	})
}

// safeBuffer is a bytes.Buffer for a process to write to while a test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

func FuzzRingHeader(f *testing.F) {
	seed := append([]byte(ringMagic), binary.LittleEndian.AppendUint64(nil, 4096)...)
	f.Add(append(seed, make([]byte, 16)...), uint64(0))
	f.Add(append(seed, bytes.Repeat([]byte{0xff}, 16)...), uint64(1))
	f.Add([]byte(nil), uint64(0))
	f.Fuzz(func(t *testing.T, header []byte, offset uint64) {
		file, err := os.CreateTemp(t.TempDir(), "ring")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := file.Truncate(ringHeader + 4096); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(header[:min(len(header), ringHeader)], 0); err != nil {
			t.Fatal(err)
		}
		data, _, _, err := ReadRing(file, offset, 1<<20)
		if err == nil && len(data) > 4096 {
			t.Fatalf("%d bytes out of a ring of 4096", len(data))
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add(must(encode(&request{Command: cmdAllowPeer, PID: 7})))
	f.Add(must(encode(&response{Stats: &Stats{VM: testVM, Disks: []DiskStats{{Name: "root"}}}})))
	f.Add(must(encode(&wireConfig{VM: testVM, Disks: []wireDisk{{Name: "root", Key: make([]byte, 64), SectorSize: 512, Length: 512}}})))
	f.Add([]byte{0xa1, 1, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		var r response
		_ = decode(b, &q)
		_ = decode(b, &r)
		if c, _, err := decodeConfig(b); err == nil {
			if err := c.validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
