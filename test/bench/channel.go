package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/tenant/client"
)

const (
	idleChannels = 200
	idleTime     = 60 * time.Second // four keep-alives
	roundTrips   = 2000
)

// runChannel measures channels through the real server against the same bytes without
// a channel, and against a plain relay.
func runChannel(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "Channels",
		intro: "From the client through `uvbond-server` (TLS, WebSocket) to a process in the place of the keeper, and back; all on this machine. \"Without channel\" is the same server and stream, and nothing sealed. " +
			"\"Plain relay\" is a WebSocket server over TLS that joins each socket to the same process with `io.Copy`. Round trip: one byte and its echo, " + fmt.Sprint(roundTrips) + " times; " +
			"\"added\" is the channel's median less that without one. Bulk: 32 KiB writes. Idle: " + fmt.Sprint(idleChannels) + " channels that nobody uses but their keep-alive, watched for " + idleTime.String() +
			"; what resident memory of the server grew by, and its CPU.",
		metrics: []metric{{"median", "µs, median", "%.1f", 1e6}, {"p99", "µs, 99%", "%.1f", 1e6}, {"added", "µs added", "%.1f", 1e6}, {"bandwidth", "MB/s", "%.0f", 1e-6},
			{"memory", "MiB", "%.1f", 1.0 / (1 << 20)}, {"idle", "% of a core", "%.3f", 100}},
		limits: []limit{{"round trip", "channel", "added", 1e-3}, {idleTest, "channel", "memory", 64 << 20}, {idleTest, "channel", "idle", 0.01}},
		promises: []promise{
			{test: "bulk to the client", metric: "bandwidth", peer: "plain relay", least: 0.6}, {test: "bulk from the client", metric: "bandwidth", peer: "plain relay", least: 0.6},
			{test: "bulk to the client", metric: "bandwidth", peer: "without channel", least: 0.6}, {test: "bulk from the client", metric: "bandwidth", peer: "without channel", least: 0.6},
		},
	}
	b, err := newChannelBench(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	p := newProgress(o.rounds + 1)
	defer p.done()
	for range o.rounds {
		p.step("channel: round trips and bulk")
		if err := b.round(ctx, o, r); err != nil {
			return nil, err
		}
	}
	p.step("channel: idle")
	s, err := b.idle(ctx)
	if err != nil {
		return nil, err
	}
	r.add(idleTest, "channel", s)
	return r, nil
}

var idleTest = fmt.Sprintf("%d idle channels", idleChannels)

// channelBench is what runs for the measurements.
type channelBench struct {
	keeper, server, plain *peer
	ours, theirs          *client.Client
}

func (b *channelBench) stop() {
	for _, p := range []*peer{b.server, b.plain, b.keeper} {
		if p != nil {
			p.stop()
		}
	}
}

func newChannelBench(ctx context.Context, o *options) (b *channelBench, err error) {
	b = &channelBench{}
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if b.keeper, err = start(o, "keeper", nil, self, "serve-keeper", "SOCKET"); err != nil {
		return nil, err
	}
	if b.plain, err = start(o, "plain relay", nil, self, "serve-websocket", b.keeper.socket+".bare", "SOCKET"); err != nil {
		return nil, err
	}
	where, err := net.Dial("unix", b.plain.socket)
	if err != nil {
		return nil, err
	}
	defer where.Close()
	var address relayAddress
	if err := json.NewDecoder(where).Decode(&address); err != nil {
		return nil, err
	}
	if b.theirs, err = client.New(client.Options{URL: address.URL, TLSPin: address.Pin}); err != nil {
		return nil, err
	}
	return b, b.startServer(ctx, o, filepath.Join(filepath.Dir(self), "uvbond-server"))
}

// startServer runs the real server on the keeper's gate, with a tenant and a VM.
func (b *channelBench) startServer(ctx context.Context, o *options, program string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	l.Close()
	config := filepath.Join(o.dir, "server.toml")
	text := fmt.Sprintf("listen = %q\ndata_dir = %q\ngate = %q\n", address, filepath.Join(o.dir, "server"), b.keeper.socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	// start waits for a unix socket, and the server has none: it gets one that says nothing.
	ready, err := net.Listen("unix", filepath.Join(o.dir, "server.sock"))
	if err != nil {
		return err
	}
	defer ready.Close()
	if b.server, err = start(o, "server", nil, program, "serve", "--config", config); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	said, err := output(ctx, program, "token", "create", "bench", "--config", config)
	if err != nil {
		return err
	}
	token := ""
	for _, f := range strings.Fields(string(said)) {
		if strings.HasPrefix(f, "uvb_") {
			token = f
		}
	}
	var pin string
	for range 200 {
		if pin, err = client.ProbeTLS(ctx, "https://"+address); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if b.ours, err = client.New(client.Options{URL: "https://" + address, Token: token, TLSPin: pin}); err != nil {
		return err
	}
	return b.register(ctx)
}

// register gives the server a VM, which runs then.
func (b *channelBench) register(ctx context.Context) error {
	const empty = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9" // SHA-256 of "0"
	img, err := b.ours.NewImage(ctx, "disk", 1, empty)
	if err != nil {
		return err
	}
	if _, err := b.ours.PutImage(ctx, img.ID, 0, []byte("0")); err != nil {
		return err
	}
	_, err = b.ours.CreateVM(ctx, client.CreateVM{ID: channelVM.String(), Name: "bench", Disks: []client.ImageDisk{{Name: "root", Image: img.ID}}, Registration: gatetest.Registration(channelVM.String())})
	return err
}

// open opens a stream of a peer, whose far end does what.
func (b *channelBench) open(ctx context.Context, peer string, what byte) (io.ReadWriteCloser, error) {
	c, kind := b.ours, channel.KindConsole
	switch peer {
	case "plain relay":
		c = b.theirs
	case "without channel":
		kind = channel.KindScreen
	}
	s, _, err := c.OpenChannel(ctx, channelVM.String(), client.Channel{Kind: kind, Ticket: gatetest.Ticket(channelVM.String(), kind)})
	if err != nil {
		return nil, err
	}
	if peer == "channel" {
		if s, err = channel.Open(ctx, s, channelParams()); err != nil {
			return nil, err
		}
	}
	_, err = s.Write([]byte{what})
	return s, err
}

// round has the peers take turns.
func (b *channelBench) round(ctx context.Context, o *options, r *report) error {
	peers := []string{"channel", "without channel", "plain relay"}
	streams := map[string]io.ReadWriteCloser{}
	for _, peer := range peers {
		s, err := b.open(ctx, peer, echoes)
		if err != nil {
			return fmt.Errorf("%s: %w", peer, err)
		}
		defer s.Close()
		streams[peer] = s
	}
	times := map[string][]float64{}
	for range roundTrips {
		for _, peer := range peers {
			took, err := roundTrip(streams[peer])
			if err != nil {
				return fmt.Errorf("%s: %w", peer, err)
			}
			times[peer] = append(times[peer], took.Seconds())
		}
	}
	for _, t := range times {
		slices.Sort(t)
	}
	middle, late := roundTrips/2, roundTrips*99/100
	for _, peer := range peers {
		s := sample{"median": times[peer][middle], "p99": times[peer][late]}
		if peer == "channel" {
			s["added"] = times[peer][middle] - times["without channel"][middle]
		}
		r.add("round trip", peer, s)
	}
	for _, test := range []struct {
		name string
		what byte
	}{{"bulk to the client", sends}, {"bulk from the client", takes}} {
		for _, peer := range peers {
			rate, err := b.bulk(ctx, o, peer, test.what)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", test.name, peer, err)
			}
			r.add(test.name, peer, sample{"bandwidth": rate})
		}
	}
	return nil
}

func roundTrip(s io.ReadWriter) (time.Duration, error) {
	var b [1]byte
	begin := time.Now()
	if _, err := s.Write(b[:]); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(s, b[:])
	return time.Since(begin), err
}

// bulk moves bytes one way for a while and returns bytes per second.
func (b *channelBench) bulk(ctx context.Context, o *options, peer string, what byte) (float64, error) {
	s, err := b.open(ctx, peer, what)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	buf, moved := make([]byte, 32<<10), 0
	move := s.Read
	if what == takes {
		move = s.Write
	}
	begin := time.Now()
	for time.Since(begin).Seconds() < o.seconds {
		n, err := move(buf)
		if err != nil {
			return 0, err
		}
		moved += n
	}
	return float64(moved) / time.Since(begin).Seconds(), nil
}

// idle opens channels and watches the server while nothing is sent.
func (b *channelBench) idle(ctx context.Context) (sample, error) {
	pid := b.server.cmd.Process.Pid
	before, err := status(pid, "VmRSS")
	if err != nil {
		return nil, err
	}
	var open []io.ReadWriteCloser
	defer func() {
		closed := make(chan struct{})
		for _, s := range open {
			go func() { s.Close(); closed <- struct{}{} }()
		}
		for range open {
			<-closed
		}
	}()
	for range idleChannels {
		s, err := b.open(ctx, "channel", echoes)
		if err != nil {
			return nil, err
		}
		open = append(open, s)
	}
	cpu, err := b.server.cpu()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	end, err1 := b.server.cpu()
	after, err2 := status(pid, "VmRSS")
	for _, s := range open {
		if _, err := roundTrip(s); err != nil {
			return nil, fmt.Errorf("a channel that was idle: %w", err)
		}
	}
	return sample{"memory": after - before, "idle": (end - cpu) / idleTime.Seconds()}, errors.Join(err1, err2)
}
