package qmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary act as another process that writes its value
// on the connection it inherited as descriptor 3.
const childEnv = "UVBOND_QMP_TEST_WRITE"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(childEnv); ok {
		if _, err := os.NewFile(3, "inherited").WriteString(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func receiver(t testing.TB) (*Conn, *net.UnixConn) {
	a, b := socketPair(t)
	c := NewConn(a)
	t.Cleanup(func() { c.Close() })
	return c, b
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// tempFile returns an open file that holds text.
func tempFile(t testing.TB, text string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, c *net.UnixConn, text string, files ...*os.File) {
	t.Helper()
	var rights []byte
	if len(files) > 0 {
		fds := []int{}
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix([]byte(text), rights, nil); err != nil {
		t.Fatal(err)
	}
}

// receive checks the next line's text and what its files hold.
func receive(t *testing.T, c *Conn, data string, files ...string) *Line {
	t.Helper()
	line, err := c.Receive(testContext(t))
	if err != nil {
		t.Fatalf("want line %q: %v", data, err)
	}
	defer line.Close()
	if string(line.Data) != data {
		t.Fatalf("line %q, want %q", line.Data, data)
	}
	if len(line.Files) != len(files) {
		t.Fatalf("line %q has %d files, want %d", data, len(line.Files), len(files))
	}
	for i, f := range line.Files {
		buf := make([]byte, 100)
		n, err := f.ReadAt(buf, 0)
		if err != nil && err != io.EOF || string(buf[:n]) != files[i] {
			t.Fatalf("file %d of line %q holds %q (%v), want %q", i, data, buf[:n], err, files[i])
		}
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Fatalf("received descriptor would leak into children: flags %x, %v", flags, err)
		}
	}
	return line
}

func TestReceiveLines(t *testing.T) {
	c, peer := receiver(t)
	write(t, peer, "one\ntwo\r\n\n \r\n thr")
	receive(t, c, "one")
	receive(t, c, "two")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("half a line: %v", err)
	}
	write(t, peer, "ee\nfo")
	receive(t, c, " three")
	peer.Close()
	if _, err := c.Receive(testContext(t)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("end inside a line: %v", err)
	}
}

func TestReceiveEOF(t *testing.T) {
	c, peer := receiver(t)
	write(t, peer, "one\n")
	peer.Close()
	receive(t, c, "one")
	if _, err := c.Receive(testContext(t)); err != io.EOF {
		t.Fatalf("got %v, want EOF", err)
	}
}

func TestFilesStayWithTheirLine(t *testing.T) {
	c, peer := receiver(t)
	a, b := tempFile(t, "a"), tempFile(t, "b")
	// All is under way before the first read.
	write(t, peer, "none\n")
	write(t, peer, "first\n", a, b)
	write(t, peer, "none again\n")
	write(t, peer, "second\nthird\n", b)
	write(t, peer, "four", a)
	write(t, peer, "th\nfif")
	write(t, peer, "th\n", b)
	receive(t, c, "none")
	receive(t, c, "first", "a", "b")
	receive(t, c, "none again")
	receive(t, c, "second", "b")
	receive(t, c, "third")
	receive(t, c, "fourth", "a")
	receive(t, c, "fifth", "b")
}

func TestSendFiles(t *testing.T) {
	c, peer := receiver(t)
	f := tempFile(t, "content")
	long := strings.Repeat("x", MaxLine-8)
	sent := make(chan error, 1)
	go func() {
		s := NewConn(peer)
		sent <- errors.Join(s.Send([]int{1}), s.Send(long, f), s.Send(map[string]int{"a": 1}))
	}()
	receive(t, c, "[1]")
	receive(t, c, `"`+long+`"`, "content")
	receive(t, c, `{"a":1}`)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := NewConn(peer).Send(strings.Repeat("x", MaxLine)); !errors.Is(err, ErrTooLong) {
		t.Fatalf("too long a line was sent: %v", err)
	}
	if err := NewConn(peer).Send(1, make([]*os.File, MaxFiles+1)...); err == nil {
		t.Fatal("too many files were sent")
	}
}

func TestReceiveTooLong(t *testing.T) {
	c, peer := receiver(t)
	go peer.Write(bytes.Repeat([]byte{'x'}, MaxLine+1))
	if _, err := c.Receive(testContext(t)); !errors.Is(err, ErrTooLong) {
		t.Fatalf("got %v", err)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestSurplusFilesAreClosed(t *testing.T) {
	c, peer := receiver(t)
	f := tempFile(t, "f")
	files := make([]*os.File, MaxFiles-1)
	for i := range files {
		files[i] = f
	}
	before := openDescriptors(t)
	write(t, peer, "li", files...)
	write(t, peer, "ne\n", files[:4]...)
	line, err := c.Receive(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(line.Files) != MaxFiles || line.Surplus != 3 {
		t.Fatalf("%d files, %d surplus", len(line.Files), line.Surplus)
	}
	line.Close()
	if after := openDescriptors(t); after != before {
		t.Fatalf("%d descriptors leaked", after-before)
	}
}

func TestHalfLineFilesAreClosed(t *testing.T) {
	a, peer := socketPair(t)
	c := NewConn(a)
	before := openDescriptors(t)
	write(t, peer, "half", tempFile(t, "f"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	c.Close()
	// One more for the temporary file, one less for the socket.
	if after := openDescriptors(t); after != before {
		t.Fatalf("%d descriptors leaked", after-before)
	}
}

func TestTruncatedControlIsRefused(t *testing.T) {
	c, peer := receiver(t)
	f := tempFile(t, "f")
	write(t, peer, "line\n", f, f, f, f)
	before := openDescriptors(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// Leave room for fewer descriptors than are under way.
	next, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	low := old
	low.Cur = uint64(next + 2)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, err = c.Receive(testContext(t))
	if restoreErr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); restoreErr != nil {
		t.Fatal(restoreErr)
	}
	if !errors.Is(err, ErrTruncated) {
		t.Fatalf("got %v", err)
	}
	if after := openDescriptors(t); after != before {
		t.Fatalf("%d descriptors leaked", after-before)
	}
}

// writeAsOther writes text on c from another process.
func writeAsOther(t *testing.T, c *net.UnixConn, text string) int32 {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+text)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return int32(cmd.Process.Pid)
}

func TestSendersAreToldApart(t *testing.T) {
	c, peer := receiver(t)
	if err := c.EnableCredentials(); err != nil {
		t.Fatal(err)
	}
	me := Cred{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	write(t, peer, "mine\n")
	pid := writeAsOther(t, peer, "other\n")
	write(t, peer, "mine again\n")
	if got := receive(t, c, "mine").Cred; got == nil || *got != me || !got.Known() {
		t.Fatalf("sender %+v, want %+v", got, me)
	}
	if got := receive(t, c, "other").Cred; got == nil || got.PID != pid {
		t.Fatalf("sender %+v, want pid %d", got, pid)
	}
	if got := receive(t, c, "mine again").Cred; *got != me {
		t.Fatalf("sender %+v, want %+v", got, me)
	}
}

func TestMixedSendersAreRefused(t *testing.T) {
	for _, parts := range [][2]string{{`{"execute":`, "\"quit\"}\n"}, {"x", "\n"}} {
		c, peer := receiver(t)
		if err := c.EnableCredentials(); err != nil {
			t.Fatal(err)
		}
		write(t, peer, parts[0])
		writeAsOther(t, peer, parts[1])
		if _, err := c.Receive(testContext(t)); !errors.Is(err, ErrMixedSenders) {
			t.Fatalf("%q: %v", parts, err)
		}
	}
}

func TestUnknownSender(t *testing.T) {
	c, peer := receiver(t)
	write(t, peer, "early\n")
	if err := c.EnableCredentials(); err != nil {
		t.Fatal(err)
	}
	if cred := receive(t, c, "early").Cred; cred.Known() {
		t.Fatalf("a line from before has the sender %+v", cred)
	}
	var none *Cred
	if none.Known() {
		t.Fatal("no sender is known")
	}
}

func TestListenCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := ListenCredentials(l); err != nil {
		t.Fatal(err)
	}
	peer, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	write(t, peer, "before accept\n")
	a, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	write(t, peer, "before the option\n")
	c := NewConn(a)
	defer c.Close()
	if err := c.EnableCredentials(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"before accept", "before the option"} {
		if cred := receive(t, c, text).Cred; cred.PID != int32(os.Getpid()) {
			t.Fatalf("%s: sender %+v", text, cred)
		}
	}
}

func TestSendToADeafPeer(t *testing.T) {
	c, _ := receiver(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var err error
	for range 100 {
		if err = c.send(ctx, strings.Repeat("x", 100<<10), nil); err != nil {
			break
		}
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := c.Send(1); err == nil {
		t.Fatal("a connection that ends inside a line was used again")
	}
}
