package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/disk/nbd"
)

// keeper is the state of the keeper process.
type keeper struct {
	log         *slog.Logger
	config      *Config
	daemonUID   uint32
	socketDir   string
	confinement Confinement
	peers       *peers

	control         *net.UnixListener
	consoleListener *net.UnixListener
	ringFile        *os.File
	console         *serialPort
	disks           []*served
	seed            *served // nil: the VM has none
	channels        *channels
}

// run serves until a signal ends ctx or the daemon says stop.
func (k *keeper) run(signals context.Context) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var serving sync.WaitGroup
	for _, d := range k.served() {
		serving.Go(func() {
			if err := d.front.Serve(ctx, d.listener); err != nil {
				k.log.Error("keeper: disk is not served any more", "disk", d.config.Name, "err", err)
			}
		})
	}
	serving.Go(func() { k.console.serve(ctx, k.consoleListener) })
	// The control socket outlives the rest, to report the last flush.
	var once sync.Once
	var flushed error
	finish := func(e console.End) error {
		once.Do(func() {
			k.channels.end(endOfChannels(e))
			k.console.finish(e)
			k.channels.finish()
			stop()
			serving.Wait()
			flushed = k.flush()
		})
		return flushed
	}
	ended := make(chan error, 1)
	go k.serveControl(finish, ended)
	select {
	case <-signals.Done():
		return finish(console.End{Why: console.HostRestarted})
	case err := <-ended:
		return err
	}
}

// endOfChannels is what the owners of channels are told.
func endOfChannels(e console.End) string {
	switch {
	case e.Why == console.HostRestarted:
		return "the keeper was stopped"
	case e.Text == "":
		return "the instance ended"
	}
	return "the instance ended: " + e.Text
}

func (k *keeper) flush() error {
	var errs []error
	for _, d := range k.disks {
		if err := d.dev.Flush(); err != nil {
			errs = append(errs, fmt.Errorf("last flush of disk %q: %w", d.config.Name, err))
		}
	}
	return errors.Join(errs...)
}

// served lists the disks, and the seed's.
func (k *keeper) served() []*served {
	if k.seed == nil {
		return k.disks
	}
	return append(slices.Clip(k.disks), k.seed)
}

func (k *keeper) close() {
	for _, d := range k.served() {
		d.close()
	}
	k.config.wipe()
}

// serveControl answers the daemon, one connection after the other.
func (k *keeper) serveControl(finish func(console.End) error, ended chan<- error) {
	for {
		c, err := k.control.AcceptUnix()
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors or memory: that passes
			continue
		}
		stopped, err := k.serveRequest(c, finish)
		c.Close()
		if stopped {
			ended <- err
			return
		}
		if err != nil {
			k.log.Warn("keeper: control request failed", "err", err)
		}
	}
}

func (k *keeper) serveRequest(c *net.UnixConn, finish func(console.End) error) (stopped bool, err error) {
	cred, err := nbd.PeerCredentials(c)
	if err != nil {
		return false, err
	}
	if cred.Uid != k.daemonUID {
		return false, fmt.Errorf("process %d has uid %d, only the daemon may command", cred.Pid, cred.Uid)
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	var q request
	files, err := receive(c, &q)
	defer closeAll(files)
	defer q.Channel.wipe()
	if err != nil {
		return false, errors.Join(err, send(c, &response{Error: err.Error()}))
	}
	var r response
	var answer []*os.File
	switch q.Command {
	case cmdStop:
		stopped, err = true, finish(console.End{Why: q.Why, Text: q.Text})
		c.SetDeadline(time.Now().Add(5 * time.Second))
	case cmdStats:
		r.Stats = k.stats()
	case cmdFiles:
		r.Stats, r.SocketDir, r.Seed = k.stats(), k.socketDir, k.seed != nil
		var unlock func()
		answer, unlock, err = k.files()
		defer unlock()
	case cmdAllowPeer:
		if q.PID < 0 {
			err = fmt.Errorf("process id %d", q.PID)
			break
		}
		k.peers.allow(q.PID)
	case cmdLimit, cmdGrow, cmdAnnounce:
		err = k.change(&q)
	case cmdConnections:
		var d *served
		if d, err = k.disk(q.Disk); err == nil {
			err = d.reconnect(files)
		}
	case cmdChannel:
		err = k.channels.take(q.Channel, files)
	case cmdReports:
		if err = errors.New("want one socket to report on"); len(files) == 1 {
			err = k.channels.reports.attach(files[0], k.channels.count())
		}
	default:
		err = fmt.Errorf("unknown command %.32q", q.Command)
	}
	if err != nil {
		r = response{Error: err.Error(), Busy: errors.Is(err, ErrTooManyChannels)}
		answer = nil
	}
	return stopped, errors.Join(err, send(c, &r, answer...))
}

// change carries out the commands that are about one disk.
func (k *keeper) change(q *request) error {
	d, err := k.disk(q.Disk)
	if err != nil {
		return err
	}
	switch q.Command {
	case cmdLimit:
		return d.dev.SetLimits(q.Limits)
	case cmdGrow:
		return d.dev.Grow(q.Length)
	default:
		d.front.announce()
		return nil
	}
}

func (k *keeper) stats() *Stats {
	s := &Stats{VM: k.config.VM, Confinement: k.confinement, ConsoleBytes: k.console.ring.written.Load()}
	for _, d := range k.disks {
		one := DiskStats{Name: d.config.Name, Size: uint64(d.dev.Size()), Device: d.dev.Stats()}
		d.front.count(&one)
		if d.storage != nil {
			st := d.storage.Stats()
			one.Storage = &st
		}
		s.Disks = append(s.Disks, one)
	}
	return s
}

func (k *keeper) disk(name string) (*served, error) {
	for _, d := range k.disks {
		if d.config.Name == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("no disk %.32q", name)
}

// files collects what cmdFiles answers; unlock after they have been sent.
func (k *keeper) files() (files []*os.File, unlock func(), err error) {
	var duplicates []*os.File
	unlock = func() { closeAll(duplicates) }
	for _, d := range k.disks {
		f, err := d.duplicate()
		if err != nil {
			return nil, unlock, err
		}
		duplicates = append(duplicates, f)
	}
	for _, l := range append(k.listeners(), k.consoleListener) {
		f, err := l.File()
		if err != nil {
			return nil, unlock, err
		}
		duplicates = append(duplicates, f)
	}
	files = append(slices.Clip(duplicates), k.ringFile)
	if k.seed != nil {
		f, err := k.seed.listener.File()
		if err != nil {
			return nil, unlock, err
		}
		duplicates, files = append(duplicates, f), append(files, f)
	}
	return files, unlock, nil
}

func (k *keeper) listeners() []*net.UnixListener {
	var ls []*net.UnixListener
	for _, d := range k.disks {
		ls = append(ls, d.listener)
	}
	return ls
}
