package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// maxChannels is how many channels the host may have, of all VMs; one VM may
// have keeper.MaxChannels.
const maxChannels = 1024

// Channel implements gate.VM: it gives the connection to the instance's keeper, with
// what the kind needs of QEMU.
func (m *Machine) Channel(ctx context.Context, ch gate.Channel) error {
	inst, err := m.instanceOf(ch.Instance)
	if err != nil {
		return err
	}
	c := &keeper.Channel{Kind: ch.Kind, Port: ch.Port, Session: ch.Session, Nonce: ch.Nonce, Conn: ch.Conn}
	cur := m.Current()
	if cur.Number != ch.Instance || !cur.Live {
		return gate.ErrNotRunning
	}
	c.Descriptor = cur.Descriptor.Value
	defer clear(c.Descriptor[:])
	switch ch.Kind {
	case channel.KindScreen:
		c.Screen, err = m.Screen(ctx, ch.Instance)
		defer func() { closeAll([]*os.File{c.Screen}) }()
	case channel.KindForward:
		c.Address, err = m.Forward(ctx, ch.Instance, ch.Port)
	}
	if err != nil {
		return err
	}
	if c.Key, err = m.bond.ChannelKey(); err != nil {
		return err
	}
	defer c.Key.Wipe()
	return inst.handOver(ctx, c)
}

func (i *instance) handOver(ctx context.Context, c *keeper.Channel) error {
	noKeeper := &qmp.Error{Class: qmp.ClassUnavailable, Desc: "UVBond: the VM's keeper is not there just now; try again"}
	k := i.currentKeeper()
	if k == nil {
		return noKeeper
	}
	if !i.reserveChannel() {
		return &qmp.Error{Class: qmp.ClassBusy, Desc: fmt.Sprintf("UVBond: the host has %d channels already; close one, or try again later", maxChannels)}
	}
	err := k.Channel(ctx, c)
	if err == nil {
		return nil
	}
	i.channelsAre(-1, true)
	switch {
	case errors.Is(err, keeper.ErrTooManyChannels):
		return &qmp.Error{Class: qmp.ClassBusy, Desc: "UVBond: " + keeper.ErrTooManyChannels.Error()}
	case errors.Is(err, keeper.ErrGone):
		return noKeeper
	}
	return i.explain(ctx, err)
}

// reserveChannel counts one more channel, if the host has room for it.
func (i *instance) reserveChannel() bool {
	if i.machine.manager.channels.Add(1) > maxChannels {
		i.machine.manager.channels.Add(-1)
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.channels++
	return true
}

// channelsAre notes how many channels an instance has, or how many more.
func (i *instance) channelsAre(n int, more bool) (before int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before = i.channels
	if more {
		n += before
	}
	i.channels = max(n, 0)
	i.machine.manager.channels.Add(int64(i.channels - before))
	return before
}

// listen takes the reports of a keeper until it ends, or the daemon lets go of it. There
// are none of the keeper of an instance that was dismantled.
func (i *instance) listen(ctx context.Context, k *keeper.Process) {
	m := i.machine
	if !i.report() {
		return
	}
	ours, err := reportsOf(ctx, k)
	if err != nil {
		i.reporting.Done()
		m.log.Error("keeper cannot report what becomes of channels", "err", err)
		return
	}
	m.manager.work.Go(func() {
		defer i.reporting.Done()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-i.let:
			case <-ctx.Done():
			}
			cancel()
		}()
		keeper.TakeReports(ctx, ours, func(r *keeper.Report) {
			i.channelsAre(r.Open, false)
			for _, e := range channelEntries(r) {
				m.recordEntry(e)
			}
		})
		if lost := i.channelsAre(0, false); lost > 0 && ctx.Err() == nil {
			m.record("channel", fmt.Sprintf("%d channels ended with the VM's keeper", lost), nil)
		}
	})
}

// reportsOf asks a keeper to report on the socket that it returns.
func reportsOf(ctx context.Context, k *keeper.Process) (*net.UnixConn, error) {
	ours, theirs, err := keeper.ReportSocket()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := k.Reports(ctx, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// report counts one more who takes reports. dismantle waits for all of them: none may
// begin afterwards, which also a sync.WaitGroup does not stand.
func (i *instance) report() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return false
	}
	i.reporting.Add(1)
	return true
}

// channelEntries are what the audit gets of a report. What shows that somebody touched
// a channel is of the kind of refused attempts, so that it stands out.
func channelEntries(r *keeper.Report) []state.Entry {
	var entries []state.Entry
	if r.Lost > 0 {
		entries = append(entries, state.Entry{Kind: "channel", Who: "hypervisor", Text: fmt.Sprintf("%d reports about channels were lost", r.Lost)})
	}
	if r.Event == keeper.EventState {
		return entries
	}
	what := r.Kind
	e := state.Entry{Kind: "channel", Who: "hypervisor", Fields: map[string]string{"channel": r.Kind, "why": r.Why}}
	if r.Port != 0 {
		what += fmt.Sprintf(" to port %d", r.Port)
		e.Fields["port"] = strconv.Itoa(int(r.Port))
	}
	if r.Event != keeper.EventRefused {
		e.Fields["session"] = r.Session
	}
	why, touched := whyText(r)
	if touched {
		e.Kind = "refused"
	}
	switch r.Event {
	case keeper.EventOpened:
		e.Text = what + " opened"
		delete(e.Fields, "why")
	case keeper.EventRefused:
		// As often as somebody has tickets of the owner: equal ones are counted.
		e.Text, e.Coalesce = what+" was not opened: "+why, true
		if touched {
			e.Fields["class"] = qmp.ClassRedirected
		}
	default:
		e.Text = what + " ended: " + why
		e.Fields["received"], e.Fields["sent"] = strconv.FormatUint(r.Received, 10), strconv.FormatUint(r.Sent, 10)
		e.Fields["seconds"] = strconv.FormatUint(r.Seconds, 10)
	}
	return append(entries, e)
}

// whyText is why a channel ended, for people, and whether it was touched on its way.
func whyText(r *keeper.Report) (text string, touched bool) {
	if r.Why != keeper.WhyEnded {
		text, touched = r.Why, channel.Why(r.Why).Suspicious()
		if r.Reason != "" {
			text += " (" + r.Reason + ")"
		}
		return text, touched
	}
	if channel.Why(r.Reason).Suspicious() {
		return "the owner's end found it " + r.Reason, true
	}
	return r.Reason, false
}
