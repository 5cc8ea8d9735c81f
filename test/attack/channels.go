package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/qmp"
)

// tryChannels carries channels as no relay should, joins them to other VMs, and asks
// for channels that the ticket does not allow.
func tryChannels(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	var ms [3]*machine
	for i, name := range []string{"con1", "con2", "con3"} {
		if ms[i], err = t.machine(name, ""); err != nil {
			return err
		}
		if err := ms[i].start(a); err != nil {
			return err
		}
	}
	for _, try := range []func(*trial, *process, [3]*machine) error{bendChannels, redirectChannels, wrongChannels, manyChannels} {
		if err := try(t, a, ms); err != nil {
			return err
		}
	}
	return nil
}

// channelTicket is a ticket for a channel, and its nonce.
func (m *machine) channelTicket(kind string, port uint16) ([]byte, [32]byte) {
	text, err := automata.Channel(kind, port)
	if err != nil {
		panic(err) // a name in this program
	}
	nonce := bond.NewNonce()
	return m.ticket("pause", func(k *bond.Ticket) { k.Command, k.Automaton, k.Nonce = kind, text, nonce }), nonce
}

func askChannel(kind string, port uint16) json.RawMessage {
	return request(qmp.CmdChannel, qmp.ChannelArgs{Kind: kind, Port: port})
}

// meeting is where the attacker brings channels to: the owner's machine.
type meeting struct {
	path string
	l    *net.UnixListener
}

var meetings atomic.Int64

func (t *trial) meeting() (*meeting, error) {
	path := filepath.Join(t.disks(), fmt.Sprintf("owner%d.sock", meetings.Add(1)))
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return &meeting{path, l}, errors.Join(os.Chmod(path, 0o666), t.give(path))
}

func (p *meeting) close() { p.l.Close() }

// records is how many records the owner sends.
const records = 4

// went is how a channel went for its owner.
type went struct{ err error }

// is tells whether it ended for this reason, found by its owner or, as the keeper says
// under the seal, by the keeper.
func (e went) is(why channel.Why) bool {
	var x *channel.Error
	return errors.As(e.err, &x) && (x.Why == why || x.Why == channel.Ended && x.Reason == string(why))
}

// packets writes packets and reads a stream.
type packets struct {
	*net.UnixConn
	r *bufio.Reader
}

func (p *packets) Read(b []byte) (int, error) { return p.r.Read(b) }

// Close leaves nothing unread: that would reset the connection, and what was said last with it.
func (p *packets) Close() error {
	err := p.CloseWrite()
	go func() {
		_ = p.SetReadDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, p.UnixConn)
		p.UnixConn.Close()
	}()
	return err
}

// use is the owner: it opens what was brought to it, attaches to the console, says a few
// things, and reads until the channel ends, or, if it is honest, until there is an answer.
func (m *machine) use(p *meeting, nonce [32]byte, honest bool) went {
	_ = p.l.SetDeadline(time.Now().Add(patience))
	raw, err := p.l.AcceptUnix()
	if err != nil {
		return went{err: err}
	}
	key, err := m.bond.ChannelKey()
	if err != nil {
		return went{err: err}
	}
	defer key.Wipe()
	c, err := channel.Open(m.w.ctx, &packets{raw, bufio.NewReaderSize(raw, 1<<17)}, channel.Params{Key: key, VM: m.bond.VM(), Descriptor: m.descriptor, Kind: channel.KindConsole, Nonce: nonce})
	if err != nil {
		return went{err: err}
	}
	defer c.Close()
	_, err = c.Write(console.Append(nil, console.Attach{Mode: console.Write, Start: console.All(), Name: "owner"}))
	for range records - 1 {
		if err == nil {
			_, err = c.Write(console.Append(nil, console.Who{}))
		}
	}
	if honest && err != nil {
		return went{err}
	}
	var e went // why a write failed, reading tells
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for r := console.NewClientReader(c); e.err == nil; {
		var msg console.Message
		msg, e.err = r.Next()
		if _, ok := msg.(console.Viewers); ok && honest {
			return e
		}
	}
	if cause := c.Cause(); channel.WhyOf(cause) != "" {
		e.err = cause // what the reader made of it says less
	}
	return e
}

// carried opens a channel of one VM, brings it to the owner of another, and returns how
// it went there.
func (t *trial) carried(a *process, at, owner *machine, b bend) (went, error) {
	p, err := t.meeting()
	if err != nil {
		return went{}, err
	}
	defer p.close()
	ticket, nonce := at.channelTicket(channel.KindConsole, 0)
	result := make(chan went, 1)
	go func() { result <- owner.use(p, nonce, b == bend{}) }()
	out, err := a.run(move{Line: at.open(ticket)}, move{Line: askChannel(channel.KindConsole, 0)}, move{Do: doCarry, Path: p.path, Bend: b})
	if err != nil {
		return went{}, err
	}
	for _, o := range out {
		if !o.ok() {
			return went{}, fmt.Errorf("channel of %s: %s", at.name, o)
		}
	}
	var answer qmp.ChannelResult
	var r bond.Receipt
	err = json.Unmarshal(out[1].Return, &answer)
	if err == nil {
		err = bond.Open(at.bond, answer.Receipt, &r)
	}
	if err != nil || r.Nonce != nonce || r.Verdict != bond.VerdictDone {
		return went{}, fmt.Errorf("receipt of a channel of %s: %+v, %w", at.name, r, err)
	}
	return <-result, nil
}

// bent carries one channel badly. touched is what its owner or the keeper must find; the
// other is told, under the seal, where that is possible.
func (t *trial) bent(a *process, m *machine, name string, b bend, touched ...channel.Why) error {
	e, err := t.carried(a, m, m, b)
	if err != nil {
		return err
	}
	m.owe(1)
	why := "the owner reads on"
	for _, w := range touched {
		if e.is(w) {
			why = ""
		}
	}
	if why != "" && e.err != nil {
		why = e.err.Error()
	}
	t.refused(name, why)
	return nil
}

func bendChannels(t *trial, a *process, ms [3]*machine) error {
	m := ms[0]
	honest := func(name string) error {
		e, err := t.carried(a, m, m, bend{})
		if err != nil {
			return err
		}
		t.accepted(name, orNil(e.err))
		return nil
	}
	if err := honest("a channel that is carried as it should be"); err != nil {
		return err
	}
	every := 1
	if t.sample {
		every = 7
	}
	record := 27 + len(console.Append(nil, console.Who{})) + 16 // header, payload, tag
	for i := 0; i < record; i += every {
		if err := t.bent(a, m, fmt.Sprintf("byte %d of a record changed", i), bend{bendFlip, 2, i}, channel.Tampered); err != nil {
			return err
		}
	}
	for i := 0; i < 48; i += every {
		if err := t.bent(a, m, fmt.Sprintf("byte %d of the handshake changed", i), bend{bendFlip, 0, i}, channel.Redirected); err != nil {
			return err
		}
		// The keeper learns of it from its owner only: its answer was the one that was changed.
		if err := t.bent(a, m, fmt.Sprintf("byte %d of the keeper's first record changed", i), bend{bendBack, 0, i}, channel.Tampered, channel.Malformed); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name string
		bend bend
		why  channel.Why
	}{
		{"two records swapped", bend{bendSwap, 1, 0}, channel.Reordered},
		{"a record dropped", bend{bendDrop, 2, 0}, channel.Reordered},
		{"a record twice", bend{bendRepeat, 2, 0}, channel.Replayed},
		{"an old record again", bend{bendOld, 3, 0}, channel.Replayed},
		{"the keeper's own records back to it", bend{bendReflect, 2, 0}, channel.Reflected},
		{"no Noise", bend{bendGarbage, 0, 0}, channel.Redirected},
		{"no record", bend{bendGarbage, 2, 0}, channel.Tampered},
		{"the handshake of the channel before", bend{bendRecorded, 0, 0}, channel.Redirected},
		{"a record of the channel before", bend{bendSplice, 2, 0}, channel.Tampered},
	} {
		if err := t.bent(a, m, c.name, c.bend, c.why); err != nil {
			return err
		}
	}
	return t.cutChannels(a, m, honest)
}

// cutChannels hangs up: nothing was touched that can be told from a broken connection,
// but no end may be taken for one in order.
func (t *trial) cutChannels(a *process, m *machine, honest func(string) error) error {
	for _, at := range []int{0, 1, 26, 27, 45} {
		e, err := t.carried(a, m, m, bend{bendCut, 2, at})
		if err != nil {
			return err
		}
		why := ""
		if !e.is(channel.Truncated) {
			why = fmt.Sprint(e.err)
		}
		t.refused(fmt.Sprintf("a channel cut within a record, after %d bytes", at), why)
	}
	return honest("a channel after all that")
}

// redirectChannels joins an owner to the keeper of another VM, of the same tenant's and
// of another's, with a ticket that was made for that VM.
func redirectChannels(t *trial, a *process, ms [3]*machine) error {
	for _, at := range ms {
		for _, owner := range ms {
			if at == owner {
				continue
			}
			e, err := t.carried(a, at, owner, bend{})
			if err != nil {
				return err
			}
			at.owe(1)
			why := ""
			if !e.is(channel.Redirected) {
				why = fmt.Sprint(e.err)
			}
			t.refused(fmt.Sprintf("the owner of %s joined to %s", owner.name, at.name), why)
		}
		ticket, _ := at.channelTicket(channel.KindConsole, 0)
		for _, to := range ms {
			if to != at {
				if err := t.present(a, fmt.Sprintf("channel ticket of %s for %s", at.name, to.name), to, ticket, qmp.ClassRedirected, in(to, at)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// wrongChannels asks for what the ticket does not say, and sends what it should not.
func wrongChannels(t *trial, a *process, ms [3]*machine) error {
	m := ms[0]
	for _, c := range []struct {
		name     string
		kind     string
		port     uint16
		ask      json.RawMessage
		class    string
		recorded bool
	}{
		{"a screen under a ticket for a console", channel.KindConsole, 0, askChannel(channel.KindScreen, 0), qmp.ClassRefused, true},
		{"a console under a ticket for a forward", channel.KindForward, 22, askChannel(channel.KindConsole, 0), qmp.ClassRefused, true},
		{"another port", channel.KindForward, 22, askChannel(channel.KindForward, 23), qmp.ClassRefused, true},
		{"no port", channel.KindForward, 22, askChannel(channel.KindForward, 0), qmp.ClassRefused, true},
		{"a stop under a ticket for a console", channel.KindConsole, 0, request(qmp.CmdStop, nil), qmp.ClassRefused, true},
		{"an argument more", channel.KindConsole, 0, request(qmp.CmdChannel, map[string]any{"kind": "console", "chardev": "x"}), qmp.ClassInvalid, true},
		{"a screen of a VM that has none", channel.KindScreen, 0, askChannel(channel.KindScreen, 0), qmp.ClassUnavailable, false},
		{"a forward of a VM without a card for it", channel.KindForward, 22, askChannel(channel.KindForward, 22), qmp.ClassUnavailable, false},
	} {
		ticket, _ := m.channelTicket(c.kind, c.port)
		out, err := a.run(move{Line: m.open(ticket)}, move{Line: c.ask}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		where := nowhere()
		if c.recorded {
			where = in(m)
		}
		t.must(c.name, out[1], c.class, where)
		if r, err := m.receipt(out[2].Return); err != nil || r.Verdict != bond.VerdictRefused {
			t.amiss(c.name, fmt.Sprintf("its receipt: %+v, %v", r, err))
		}
	}
	return pipelinedChannels(t, a, m)
}

// pipelinedChannels sends more behind the hypercall than it should, and the ticket again.
func pipelinedChannels(t *trial, a *process, m *machine) error {
	for name, behind := range map[string]string{
		"a byte": "x", "a hypercall": string(request(qmp.CmdQueryStatus, nil)) + "\n", "a handshake": strings.Repeat("\x00", 48),
	} {
		ticket, _ := m.channelTicket(channel.KindConsole, 0)
		out, err := a.run(move{Line: m.open(ticket)}, move{Raw: []byte(string(askChannel(channel.KindConsole, 0)) + "\n" + behind)}, move{Do: doClose})
		if err != nil {
			return err
		}
		t.must(name+" behind uvbond-channel", out[1], qmp.ClassInvalid, in(m))
		if err := t.present(a, "the same ticket again", m, ticket, qmp.ClassReplayed, in(m)); err != nil {
			return err
		}
	}
	out, err := a.run(move{Line: askChannel(channel.KindConsole, 0)}, move{Line: m.open(nil)}, move{Line: askChannel(channel.KindConsole, 0)}, move{Do: doClose})
	if err != nil {
		return err
	}
	t.must("a channel without a session", out[0], qmp.ClassDenied, inHost())
	t.must("a channel without a ticket", out[2], qmp.ClassDenied, in(m))
	in(m).owe(t.world, 1) // the end of that session
	return nil
}

// manyChannels opens more than a VM may have and says nothing on them, while the others'
// work; then all places are free again.
func manyChannels(t *trial, a *process, ms [3]*machine) error {
	const most, more = 256, 10
	m := ms[1]
	var script []move
	for i := range most + more {
		ticket, _ := m.channelTicket(channel.KindConsole, 0)
		script = append(script, move{Conn: 1000 + i, Line: m.open(ticket)}, move{Conn: 1000 + i, Line: askChannel(channel.KindConsole, 0)})
	}
	out, err := a.run(script...)
	if err != nil {
		return err
	}
	for i := range most + more {
		if o := out[2*i+1]; i < most {
			t.must(fmt.Sprintf("channel number %d of a VM", i+1), o, "", nowhere())
		} else {
			t.must(fmt.Sprintf("channel number %d of a VM", i+1), o, qmp.ClassBusy, nowhere())
		}
	}
	e, err := t.carried(a, ms[0], ms[0], bend{})
	if err != nil {
		return err
	}
	t.accepted("another VM's channel beside them", orNil(e.err))
	var closing []move
	for i := range most + more {
		closing = append(closing, move{Conn: 1000 + i, Do: doClose})
	}
	if _, err := a.run(closing...); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		e, err = t.carried(a, m, m, bend{})
		if err == nil || time.Now().After(end) {
			break
		}
	}
	t.accepted("a channel after they were closed", orNil(errors.Join(err, e.err)))
	return nil
}
