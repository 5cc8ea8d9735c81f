package keeper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
)

// streamPair is a pair of stream sockets: one as a connection, one as a file.
func streamPair(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := fileConn(os.NewFile(uintptr(fds[0]), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[1]), "stream")
	t.Cleanup(func() { c.Close(); f.Close() })
	return c, f
}

// owner has what a channel's both ends know.
type owner struct {
	key               *bond.Secret
	descriptor, nonce [32]byte
}

func newOwner() *owner {
	return &owner{key: bond.RandomSecret(32), descriptor: [32]byte{1}, nonce: [32]byte{2}}
}

func (o *owner) params(t *testing.T, kind string, port uint16) channel.Params {
	t.Helper()
	vm, err := bond.ParseVMID(testVM)
	if err != nil {
		t.Fatal(err)
	}
	return channel.Params{Key: o.key, VM: vm, Descriptor: o.descriptor[:], Kind: kind, Port: port, Nonce: o.nonce}
}

// hand gives a keeper the other end of a new stream.
func (o *owner) hand(t *testing.T, p *Process, c Channel) (net.Conn, error) {
	t.Helper()
	raw, f := streamPair(t)
	c.Key, c.Descriptor, c.Nonce, c.Conn = o.key, o.descriptor, o.nonce, f
	if c.Session == "" {
		c.Session = "17"
	}
	err := p.Channel(t.Context(), &c)
	f.Close()
	return raw, err
}

func (o *owner) open(t *testing.T, p *Process, c Channel) *channel.Conn {
	t.Helper()
	raw, err := o.hand(t, p, c)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := channel.Open(t.Context(), raw, o.params(t, c.Kind, c.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dialAsQEMU connects with QEMU's uid, where the test may.
func dialAsQEMU(t *testing.T, path string) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		if isRoot() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
				if _, _, errno := unix.RawSyscall(call, qemuUID, qemuUID, qemuUID); errno != 0 {
					done <- result{err: errno}
					return
				}
			}
		}
		c, err := net.Dial("unix", path)
		done <- result{c, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r.conn
}

// listenTo takes a keeper's reports.
func listenTo(t *testing.T, p *Process) (reports <-chan Report, stop func()) {
	t.Helper()
	ours, theirs, err := ReportSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := p.Reports(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	got, done := make(chan Report, 1000), make(chan struct{})
	go func() {
		defer close(done)
		TakeReports(ctx, ours, func(r *Report) { got <- *r })
		close(got)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return got, stop
}

func next(t *testing.T, reports <-chan Report) Report {
	t.Helper()
	select {
	case r, ok := <-reports:
		if !ok {
			t.Fatal("no more reports")
		}
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no report")
	}
	panic("not reached")
}

func wantReport(t *testing.T, reports <-chan Report, want Report) {
	t.Helper()
	got := next(t, reports)
	got.Serial, got.Seconds = 0, 0
	if want.Event != EventState && want.Session == "" {
		want.Session = "17"
	}
	if got != want {
		t.Errorf("report\n%+v, want\n%+v", got, want)
	}
}

// TestConsoleChannel: what QEMU prints reaches the owner through a real keeper, and what the
// owner types reaches QEMU; the daemon hears of it.
func TestConsoleChannel(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	allowAny(t, p)
	reports, _ := listenTo(t, p)
	wantReport(t, reports, Report{Event: EventState})
	qemu := dialAsQEMU(t, p.ConsolePath())
	if _, err := qemu.Write([]byte("login: ")); err != nil {
		t.Fatal(err)
	}
	conn := o.open(t, p, Channel{Kind: channel.KindConsole})
	wantReport(t, reports, Report{Event: EventOpened, Kind: channel.KindConsole, Why: WhyDone, Open: 1})
	hello := console.Append(nil, console.Attach{Mode: console.Write, Start: console.All(), Name: "test"})
	hello = console.Append(hello, console.Input{Data: []byte("root\r")})
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	typed := make([]byte, 5)
	if _, err := io.ReadFull(qemu, typed); err != nil || string(typed) != "root\r" {
		t.Fatalf("QEMU got %q, %v", typed, err)
	}
	r := console.NewClientReader(conn)
	var printed []byte
	for !bytes.Contains(printed, []byte("login: ")) {
		m, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if out, ok := m.(console.Output); ok {
			printed = append(printed, out.Data...)
		}
	}
	conn.Close()
	end := next(t, reports)
	if end.Event != EventEnded || end.Why != WhyDone || end.Received != uint64(len(hello)) || end.Sent == 0 || end.Open != 0 {
		t.Errorf("report %+v", end)
	}
}

// TestScreenChannel: bytes pass both ways, with their ends.
func TestScreenChannel(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	reports, _ := listenTo(t, p)
	next(t, reports)
	vnc, f := streamPair(t)
	conn := o.open(t, p, Channel{Kind: channel.KindScreen, Screen: f})
	f.Close()
	next(t, reports)
	if _, err := vnc.Write([]byte("RFB 003.008\n")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 12)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "RFB 003.008\n" {
		t.Fatalf("read %q, %v", b, err)
	}
	if _, err := conn.Write([]byte("to QEMU")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(vnc); err != nil || string(b) != "to QEMU" {
		t.Fatalf("QEMU read %q, %v", b, err)
	}
	if _, err := vnc.Write([]byte("the last")); err != nil {
		t.Fatal(err)
	}
	vnc.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "the last" {
		t.Fatalf("read %q, %v", b, err)
	}
	wantReport(t, reports, Report{Event: EventEnded, Kind: channel.KindScreen, Why: WhyDone, Received: 7, Sent: 20})
}

// TestScreenBackPressure: a viewer that does not read stops QEMU, and takes no memory
// of the keeper.
func TestScreenBackPressure(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	vnc, f := streamPair(t)
	conn := o.open(t, p, Channel{Kind: channel.KindScreen, Screen: f})
	f.Close()
	vnc.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for chunk := make([]byte, 64<<10); ; {
		n, err := vnc.Write(chunk)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent > 16<<20 {
			t.Fatal("16 MiB went to a viewer that does not read")
		}
	}
	vnc.Close()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(sent) {
		t.Errorf("%d bytes came of %d, %v", n, sent, err)
	}
}

// TestChannelTouched: what the operator did is reported as that.
func TestChannelTouched(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	reports, _ := listenTo(t, p)
	next(t, reports)
	screen := func() (net.Conn, net.Conn) {
		vnc, f := streamPair(t)
		defer f.Close()
		raw, err := o.hand(t, p, Channel{Kind: channel.KindScreen, Screen: f})
		if err != nil {
			t.Fatal(err)
		}
		return raw, vnc
	}
	refused := Report{Event: EventRefused, Kind: channel.KindScreen, Why: string(channel.Redirected)}

	raw, _ := screen()
	raw.Write(bytes.Repeat([]byte("garbage "), 6))
	wantReport(t, reports, refused)

	raw, _ = screen()
	q := o.params(t, channel.KindScreen, 0)
	q.Key = bond.RandomSecret(32)
	if _, err := channel.Open(t.Context(), raw, q); channel.WhyOf(err) != channel.Redirected {
		t.Errorf("another key: %v", err)
	}
	wantReport(t, reports, refused)

	raw, _ = screen()
	raw.Close()
	wantReport(t, reports, Report{Event: EventRefused, Kind: channel.KindScreen, Why: string(channel.Truncated), Reason: "during the handshake"})

	raw, _ = screen()
	conn, err := channel.Open(t.Context(), raw, o.params(t, channel.KindScreen, 0))
	if err != nil {
		t.Fatal(err)
	}
	next(t, reports)
	raw.Write(make([]byte, 64))
	wantReport(t, reports, Report{Event: EventEnded, Kind: channel.KindScreen, Why: string(channel.Tampered)})
	// The keeper says so before it hangs up.
	var e *channel.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &e) || e.Why != channel.Ended || e.Reason != string(channel.Tampered) {
		t.Errorf("the owner reads %v", err)
	}
	conn.Close()

	raw, _ = screen()
	if conn, err = channel.Open(t.Context(), raw, o.params(t, channel.KindScreen, 0)); err != nil {
		t.Fatal(err)
	}
	next(t, reports)
	raw.Close()
	wantReport(t, reports, Report{Event: EventEnded, Kind: channel.KindScreen, Why: string(channel.Truncated)})
	conn.Close()

	raw, _ = screen()
	if conn, err = channel.Open(t.Context(), raw, o.params(t, channel.KindScreen, 0)); err != nil {
		t.Fatal(err)
	}
	next(t, reports)
	conn.CloseWith(string(channel.Replayed)) // as the owner's end does when it finds that
	wantReport(t, reports, Report{Event: EventEnded, Kind: channel.KindScreen, Why: WhyEnded, Reason: string(channel.Replayed)})
}

// TestChannelRefused: the keeper takes nothing that it was not made for.
func TestChannelRefused(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	_, stream := streamPair(t)
	packets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	packet := os.NewFile(uintptr(packets[0]), "packets")
	defer packet.Close()
	unix.Close(packets[1])
	for _, test := range []struct {
		what string
		c    Channel
		want string
	}{
		{"no kind", Channel{}, "there is no kind"},
		{"unknown kind", Channel{Kind: "sound"}, "there is no kind"},
		{"a port too much", Channel{Kind: channel.KindConsole, Port: 1}, "has no port"},
		{"a screen without a screen", Channel{Kind: channel.KindScreen}, "descriptors"},
		{"a console with a screen", Channel{Kind: channel.KindConsole, Screen: stream}, "descriptors"},
		{"a screen that is no stream", Channel{Kind: channel.KindScreen, Screen: packet}, "not a stream"},
		{"a screen that is a file", Channel{Kind: channel.KindScreen, Screen: x.Ring}, "screen"},
	} {
		if _, err := o.hand(t, p, test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.what, err)
		}
	}
}

// TestManyChannels: a VM has so many and no more, and the places come back.
func TestManyChannels(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	reports, _ := listenTo(t, p)
	next(t, reports)
	var raws []net.Conn
	for range MaxChannels {
		raw, err := o.hand(t, p, Channel{Kind: channel.KindConsole})
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
	}
	if _, err := o.hand(t, p, Channel{Kind: channel.KindConsole}); !errors.Is(err, ErrTooManyChannels) {
		t.Errorf("one more: %v", err)
	}
	for _, raw := range raws {
		raw.Close()
	}
	for range raws {
		next(t, reports)
	}
	o.open(t, p, Channel{Kind: channel.KindConsole})
}

// TestReportsWait: what nobody listened to is reported to the next daemon, also of channels
// that ran on without one.
func TestReportsWait(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	reports, stop := listenTo(t, p)
	next(t, reports)
	conn := o.open(t, p, Channel{Kind: channel.KindConsole, Session: "1"})
	wantReport(t, reports, Report{Event: EventOpened, Kind: channel.KindConsole, Session: "1", Why: WhyDone, Open: 1})
	stop() // the daemon dies
	conn.Close()
	conn = o.open(t, p, Channel{Kind: channel.KindConsole, Session: "2"})
	reports, _ = listenTo(t, p)
	if r := next(t, reports); r.Event != EventState || r.Open < 1 {
		t.Errorf("report %+v", r)
	}
	var got []string
	for len(got) < 2 {
		// What the daemon had not thanked for before it died comes again.
		if r := next(t, reports); r.Session != "1" || r.Event != EventOpened {
			got = append(got, r.Session+" "+r.Event)
		}
	}
	if s := strings.Join(got, ", "); s != "1 ended, 2 opened" && s != "2 opened, 1 ended" {
		t.Errorf("reports: %s", s)
	}
	// A second listener takes the place of the first.
	reports, _ = listenTo(t, p)
	next(t, reports)
	conn.Close()
	if r := next(t, reports); r.Session != "2" || r.Event != EventEnded || r.Serial != 4 {
		t.Errorf("report %+v", r)
	}
}

// TestReporterIsBounded: the oldest reports go, and are counted.
func TestReporterIsBounded(t *testing.T) {
	r := newReporter()
	for range maxReports + 10 {
		r.add(&Report{Event: EventOpened, Kind: channel.KindConsole})
	}
	p, _ := r.next(nil)
	if len(r.waiting) != maxReports || p.Lost != 10 || p.Serial != 11 {
		t.Errorf("%d wait, the first is %+v", len(r.waiting), p)
	}
	r.drop(p)
	if p, _ = r.next(nil); p.Lost != 0 {
		t.Errorf("lost is said twice: %+v", p)
	}
}

// TestKeeperEnds: owners are told why, under the seal, and the daemon too.
func TestKeeperEnds(t *testing.T) {
	x, o := newFixture(t), newOwner()
	p := x.start(t)
	reports, _ := listenTo(t, p)
	next(t, reports)
	_, f := streamPair(t)
	conn := o.open(t, p, Channel{Kind: channel.KindScreen, Screen: f})
	next(t, reports)
	if err := p.Finish(t.Context(), console.End{Why: console.InstanceEnded, Text: "powered off"}); err != nil {
		t.Fatal(err)
	}
	var e *channel.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &e) || e.Why != channel.Ended || e.Reason != "the instance ended: powered off" {
		t.Errorf("the owner reads %v", err)
	}
	wantReport(t, reports, Report{Event: EventEnded, Kind: channel.KindScreen, Why: WhyEnded, Reason: "the instance ended: powered off"})
	for r := range reports {
		t.Errorf("one more report: %+v", r)
	}
}

// FuzzReport: what a keeper reports is bounded.
func FuzzReport(f *testing.F) {
	for _, r := range []Report{
		{Event: EventState, Open: 3}, {Event: EventOpened, Kind: channel.KindConsole, Session: "1", Serial: 1},
		{Event: EventEnded, Kind: channel.KindForward, Port: 22, Why: "tampered", Reason: "x", Received: 1 << 60, Lost: 3},
	} {
		b, err := encode(&r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xa1, 0x02, 0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Report
		if decode(b, &r) != nil || r.validate() != nil {
			return
		}
		if r.Open < 0 || r.Open > MaxChannels || len(r.Reason) > 512 || len(r.Session) > 64 || r.Event == EventEnded && channel.CheckKind(r.Kind, r.Port) != nil {
			t.Errorf("%+v", r)
		}
	})
}

// TestChannelHasItsPlace: a channel that has ended and cannot say so yet, because nobody
// reads, still has a descriptor and still counts.
func TestChannelHasItsPlace(t *testing.T) {
	o := newOwner()
	c := &channels{reports: newReporter(), settled: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
	c.ctx, c.cancel = context.WithCancel(t.Context())
	defer c.cancel()
	c.vm = o.params(t, channel.KindConsole, 0).VM
	c.kinds = map[string]handler{channel.KindConsole: func(_ context.Context, conn *channel.Conn, _ *handed) error {
		conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for {
			if _, err := conn.Write(make([]byte, 32<<10)); err != nil {
				return nil
			}
		}
	}}
	raw, f := streamPair(t)
	w := &wireChannel{Kind: channel.KindConsole, Key: o.key.Bytes(), Descriptor: o.descriptor[:], Nonce: o.nonce[:]}
	if err := c.take(w, []*os.File{f}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	conn, err := channel.Open(t.Context(), raw, o.params(t, channel.KindConsole, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reported := func() int {
		c.reports.mu.Lock()
		defer c.reports.mu.Unlock()
		return len(c.reports.waiting)
	}
	for reported() < 2 { // opened, ended
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	if n := c.count(); n != 1 {
		t.Errorf("%d channels are counted, and the connection is open", n)
	}
	raw.Close()
	c.end("the test")
	<-c.settled
}
