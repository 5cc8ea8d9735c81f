package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/qmp"
)

// handOver gives a VM one end of a new stream, as the gate does.
func (b *bonded) handOver(kind string, nonce byte) (net.Conn, error) {
	b.w.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.w.t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "stream")
	defer ours.Close()
	defer theirs.Close()
	raw, err := net.FileConn(ours)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.w.t.Cleanup(func() { raw.Close() })
	ch := gate.Channel{Kind: kind, Nonce: [32]byte{nonce}, Instance: b.machine().Current().Number, Session: fmt.Sprint(nonce), Conn: theirs}
	return raw, b.machine().Channel(b.w.t.Context(), ch)
}

// params is what the owner knows of the channel.
func (b *bonded) params(kind string, nonce byte) channel.Params {
	b.w.t.Helper()
	key, err := b.owner.ChannelKey()
	if err != nil {
		b.w.t.Fatal(err)
	}
	d := b.machine().Current().Descriptor.Value
	return channel.Params{Key: key, VM: b.id, Descriptor: d[:], Kind: kind, Nonce: [32]byte{nonce}}
}

// attach opens a console channel and attaches to it.
func (b *bonded) attach(nonce byte) *channel.Conn {
	b.w.t.Helper()
	raw, err := b.handOver(channel.KindConsole, nonce)
	if err != nil {
		b.w.t.Fatal(err)
	}
	c, err := channel.Open(b.w.t.Context(), raw, b.params(channel.KindConsole, nonce))
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.w.t.Cleanup(func() { c.Close() })
	if _, err := c.Write(console.Append(nil, console.Attach{Mode: console.Read, Start: console.All(), Name: "test"})); err != nil {
		b.w.t.Fatal(err)
	}
	// The first answer says that the channel works end to end.
	if _, err := console.NewClientReader(c).Next(); err != nil {
		b.w.t.Fatal(err)
	}
	return c
}

func (b *bonded) find(kind, text string) *bond.AuditRecord {
	b.w.t.Helper()
	for _, r := range b.audit() {
		if r.Kind == kind && strings.Contains(r.Text, text) {
			return &r
		}
	}
	return nil
}

func TestChannel(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	if _, err := b.handOver(channel.KindConsole, 1); !errors.Is(err, gate.ErrNotRunning) {
		t.Errorf("without an instance: %v", err)
	}
	b.up()
	c := b.attach(1)
	eventually(t, "no record of the opening", func() bool { return b.find("channel", "console opened") != nil })
	c.Close()
	eventually(t, "no record of the end", func() bool { return b.find("channel", "console ended: done") != nil })
	if r := b.find("channel", "ended"); r.Fields["session"] != "1" || r.Fields["received"] == "0" || r.Fields["sent"] == "0" || r.Fields["why"] != "done" {
		t.Errorf("record %+v", r)
	}
	for _, kind := range []string{channel.KindScreen, channel.KindForward} {
		if _, err := b.handOver(kind, 2); classOf(err) != qmp.ClassUnavailable || !strings.Contains(err.Error(), "create it with one") {
			t.Errorf("%s of a VM that has none: %v", kind, err)
		}
	}
	if n := w.m.channels.Load(); n != 0 {
		t.Errorf("%d channels are counted", n)
	}
}

// TestChannelTouched: the audit tells attempts of the operator from ends in order.
func TestChannelTouched(t *testing.T) {
	w := newWorld(t)
	a, b := w.bonded("root"), w.bonded("root")
	a.up()
	b.up()
	// The operator joins the owner of a to the keeper of b, which waits for its own owner.
	raw, err := b.handOver(channel.KindConsole, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := channel.Open(t.Context(), raw, a.params(channel.KindConsole, 1)); channel.WhyOf(err) != channel.Redirected {
		t.Errorf("the owner is told %v", err)
	}
	eventually(t, "no record of the redirection", func() bool { return b.find("refused", "console was not opened: redirected") != nil })
	if r := b.find("refused", "redirected"); r.Fields["class"] != qmp.ClassRedirected {
		t.Errorf("record %+v", r)
	}
	raw, err = a.handOver(channel.KindConsole, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := channel.Open(t.Context(), raw, a.params(channel.KindConsole, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(bytes.Repeat([]byte{0}, 64)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no record of the tampering", func() bool { return a.find("refused", "console ended: tampered") != nil })
	io.Copy(io.Discard, c)
	c.Close()
}

// TestChannelOutlivesTheDaemon: it runs on, and its end is recorded by the next daemon.
func TestChannelOutlivesTheDaemon(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	one, two := b.attach(1), b.attach(2)
	eventually(t, "not opened", func() bool { r := b.find("channel", "opened"); return r != nil && w.m.channels.Load() == 2 })
	w.restart(func() { one.Close() })
	eventually(t, "the end of a channel while no daemon was there is not recorded", func() bool {
		r := b.find("channel", "ended")
		return r != nil && r.Fields["session"] == "1"
	})
	eventually(t, "the other is not counted", func() bool { return w.m.channels.Load() == 1 })
	if err := two.Cause(); err != nil {
		t.Fatalf("the other channel: %v", err)
	}
	b.exec(qmp.CmdQuit)
	var e *channel.Error
	if _, err := io.Copy(io.Discard, two); err != nil && (!errors.As(err, &e) || e.Why != channel.Ended) {
		t.Errorf("the owner reads %v", err)
	}
	var at []string
	for _, r := range b.audit() {
		if r.Kind == "channel" || r.Kind == "exit" {
			at = append(at, r.Kind+" "+r.Fields["session"])
		}
	}
	if got := strings.Join(at[len(at)-2:], ", "); got != "channel 2, exit " {
		t.Errorf("the last records are %s", got)
	}
	if n := w.m.channels.Load(); n != 0 {
		t.Errorf("%d channels are counted", n)
	}
}

// TestKeeperDiesWithChannels: nobody can report them; the audit says how many.
func TestKeeperDiesWithChannels(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	c := b.attach(1)
	eventually(t, "not opened", func() bool { return b.find("channel", "opened") != nil })
	_, keep := b.pids()
	kill(t, keep)
	if _, err := io.Copy(io.Discard, c); channel.WhyOf(err) != channel.Truncated {
		t.Errorf("the owner reads %v", err)
	}
	eventually(t, "no record", func() bool { return b.find("channel", "1 channels ended with the VM's keeper") != nil })
	eventually(t, "no new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	b.attach(2).Close()
}

// TestKeeperDiesAtHandOver: a keeper that dies with the connection in its hands is not there
// just now, and that is no fault of the hypervisor.
func TestKeeperDiesAtHandOver(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	_, keep := b.pids()
	nbdtest.Stop(t, keep)
	failed := make(chan error, 1)
	go func() {
		_, err := b.handOver(channel.KindConsole, 1)
		failed <- err
	}()
	eventually(t, "nothing is handed over", func() bool { return w.m.channels.Load() == 1 })
	kill(t, keep)
	if err := <-failed; classOf(err) != qmp.ClassUnavailable {
		t.Errorf("the hand-over failed with %v", err)
	}
	eventually(t, "no new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	b.attach(2).Close()
}

// TestHostIsFull: one VM cannot have all, and all together neither.
func TestHostIsFull(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	w.m.channels.Add(maxChannels)
	if _, err := b.handOver(channel.KindConsole, 1); classOf(err) != qmp.ClassBusy {
		t.Errorf("a full host: %v", err)
	}
	w.m.channels.Add(-maxChannels)
	for n := range keeper.MaxChannels {
		if _, err := b.handOver(channel.KindConsole, byte(n%200+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.handOver(channel.KindConsole, 99); classOf(err) != qmp.ClassBusy {
		t.Errorf("a full VM: %v", err)
	}
	docs, err := os.ReadFile("../../docs/gate.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("A VM has at most %d channels and the host 1,024", keeper.MaxChannels); maxChannels != 1024 || !bytes.Contains(docs, []byte(want)) {
		t.Errorf("docs/gate.md does not say %q", want)
	}
}

func TestChannelEntries(t *testing.T) {
	for _, test := range []struct {
		report keeper.Report
		want   []string
	}{
		{keeper.Report{Event: keeper.EventState, Open: 3}, nil},
		{keeper.Report{Event: keeper.EventOpened, Kind: "forward", Port: 22}, []string{"channel: forward to port 22 opened"}},
		{keeper.Report{Event: keeper.EventEnded, Kind: "screen", Why: "done", Lost: 7}, []string{"channel: 7 reports about channels were lost", "channel: screen ended: done"}},
		{keeper.Report{Event: keeper.EventEnded, Kind: "screen", Why: "timed out", Reason: "nothing came"}, []string{"channel: screen ended: timed out (nothing came)"}},
		{keeper.Report{Event: keeper.EventEnded, Kind: "screen", Why: "replayed"}, []string{"refused: screen ended: replayed"}},
		{keeper.Report{Event: keeper.EventEnded, Kind: "screen", Why: "ended", Reason: "reordered"}, []string{"refused: screen ended: the owner's end found it reordered"}},
		{keeper.Report{Event: keeper.EventEnded, Kind: "screen", Why: "ended", Reason: "the instance ended"}, []string{"channel: screen ended: the instance ended"}},
		{keeper.Report{Event: keeper.EventRefused, Kind: "console", Why: "redirected"}, []string{"refused: console was not opened: redirected"}},
		{keeper.Report{Event: keeper.EventRefused, Kind: "console", Why: "truncated", Reason: "during the handshake"}, []string{"channel: console was not opened: truncated (during the handshake)"}},
	} {
		var got []string
		for _, e := range channelEntries(&test.report) {
			got = append(got, e.Kind+": "+e.Text)
		}
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%+v: %q, want %q", test.report, got, test.want)
		}
	}
}
