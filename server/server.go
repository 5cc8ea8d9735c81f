// Package server is the management server: it puts the API, the records, the
// image store and the toolstack together and runs them.
//
// The server is not trusted with any secret of a tenant. It imports nothing of
// the hypervisor and no secret type; sealed messages are opaque bytes to it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/api"
	"github.com/uvbond/uvbond/server/bases"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/relay"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
	"github.com/uvbond/uvbond/server/vms"
)

// Options of Run.
type Options struct {
	Config  *config.Config
	Log     *slog.Logger
	Version string
	// Ready, when set, is called once with the API's and the metrics' addresses
	// (nil without a listener of their own).
	Ready func(api, metrics net.Addr)
}

// ErrLocked says that another server runs on the same data directory.
var ErrLocked = errors.New("another uvbond-server runs on this data directory")

// instance is a running server.
type instance struct {
	opts     Options
	store    *store.Store
	images   *images.Manager
	vms      *vms.Service
	gate     *toolstack.Gate
	metrics  *api.Metrics
	relay    *relay.Hub
	http     *http.Server
	plain    *http.Server // metrics, or nil
	stopping context.Context
	stop     context.CancelFunc
}

// Run serves until ctx ends, then finishes what runs: chunks are stored,
// hypercalls in flight are completed and their sessions closed.
func Run(ctx context.Context, opts Options) (err error) {
	cfg := opts.Config
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w; create it for the server's user or set data_dir", err)
	}
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	cert, err := LoadCertificate(cfg)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, cfg.Database())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	im, err := images.NewManager(ctx, st, ImageOptions(cfg, opts.Log))
	if err != nil {
		return err
	}
	defer im.Close()
	i := &instance{opts: opts, store: st, images: im, metrics: api.NewMetrics()}
	i.gate = NewGate(cfg, opts.Log)
	i.gate.Observe = i.metrics.GateCall
	i.metrics.WatchDisks(i.gate)
	i.vms = &vms.Service{Store: st, Images: im, Bases: BaseStore(cfg, st), Gate: i.gate, Taps: cfg.Taps, Log: opts.Log}
	i.stopping, i.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer i.stop()
	return i.serve(ctx, cert)
}

// ImageOptions are the image store's options by the configuration.
func ImageOptions(cfg *config.Config, log *slog.Logger) images.Options {
	return images.Options{Dir: cfg.ImageDir(), MaxImages: int64(cfg.Limits.MaxImages), FreeSpace: int64(cfg.Limits.FreeSpace),
		Expiry: cfg.Limits.UploadExpiry.D(), Exports: images.Exports{Storage: cfg.Bases.Storage, Program: cfg.Bases.Exports}, Log: log}
}

// BaseStore is where the public base images are, by the configuration.
func BaseStore(cfg *config.Config, st *store.Store) *bases.Store {
	return &bases.Store{Dir: cfg.BaseDir(), Records: st, FreeSpace: int64(cfg.Limits.FreeSpace)}
}

// NewGate reaches the hypervisor by the configuration.
func NewGate(cfg *config.Config, log *slog.Logger) *toolstack.Gate {
	return &toolstack.Gate{Path: cfg.Gate, Wait: cfg.Limits.GateWait.D(), Poll: cfg.Limits.PollInterval.D(), Log: log}
}

func (i *instance) serve(ctx context.Context, cert *Certificate) error {
	cfg, log := i.opts.Config, i.opts.Log
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return listenError("listen", cfg.Listen, err)
	}
	defer listener.Close()
	var plain net.Listener
	if cfg.MetricsListen != "" {
		if plain, err = net.Listen("tcp", cfg.MetricsListen); err != nil {
			return listenError("metrics_listen", cfg.MetricsListen, err)
		}
		defer plain.Close()
	}
	i.build(cert)
	var work sync.WaitGroup
	watch, endWatch := context.WithCancel(context.WithoutCancel(ctx))
	defer work.Wait()
	defer endWatch()
	w := &toolstack.Watcher{Gate: i.gate, Files: i.vms.Files, Seen: i.vms.Reconcile, Up: i.metrics.GateUp}
	work.Go(func() { w.Run(watch) })
	ended := make(chan error, 2)
	work.Go(func() { ended <- i.http.ServeTLS(newLimitListener(listener, cfg.Limits.Connections), "", "") })
	var plainAddr net.Addr
	if plain != nil {
		plainAddr = plain.Addr()
		work.Go(func() { ended <- i.plain.Serve(newLimitListener(plain, 16)) })
	}
	log.Info("serving", "address", listener.Addr().String(), "gate", cfg.Gate, "data", cfg.DataDir, "certificate", cert.Fingerprint(), "version", i.opts.Version)
	if i.opts.Ready != nil {
		i.opts.Ready(listener.Addr(), plainAddr)
	}
	notify("READY=1")
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = nil
	}
	return errors.Join(ignoreClosed(err), i.drain(ctx))
}

func (i *instance) build(cert *Certificate) {
	cfg, log := i.opts.Config, i.opts.Log
	i.relay = &relay.Hub{Gate: i.gate, Log: log, Metrics: i.metrics.Channels, Total: cfg.Limits.Channels, PerTenant: cfg.Limits.ChannelsPerTenant, Hello: cfg.Timeouts.Header.D()}
	handler := api.New(api.Options{Config: cfg, Version: i.opts.Version, Log: log, Store: i.store, Images: i.images,
		VMs: i.vms, Gate: i.gate, Metrics: i.metrics, Relay: i.relay, Stopping: i.stopping})
	i.http = &http.Server{
		Handler:           handler.Handler(),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert.Certificate}},
		ReadHeaderTimeout: cfg.Timeouts.Header.D(),
		IdleTimeout:       cfg.Timeouts.Idle.D(),
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", i.metrics.OperatorHandler())
	i.plain = &http.Server{Handler: mux, ReadHeaderTimeout: cfg.Timeouts.Header.D(), ReadTimeout: cfg.Timeouts.Body.D(),
		WriteTimeout: cfg.Timeouts.Write.D(), IdleTimeout: cfg.Timeouts.Idle.D(), MaxHeaderBytes: 8 << 10, ErrorLog: i.http.ErrorLog}
}

// drain lets running requests end within the drain time.
func (i *instance) drain(ctx context.Context) error {
	notify("STOPPING=1")
	i.opts.Log.Info("stopping", "drain", i.opts.Config.Timeouts.Drain.D().String())
	i.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.opts.Config.Timeouts.Drain.D())
	defer cancel()
	var channels sync.WaitGroup
	channels.Go(func() { i.relay.Stop(ctx) })
	err := i.http.Shutdown(ctx)
	if err != nil {
		i.opts.Log.Warn("requests were cut off", "error", err)
		err = i.http.Close()
	}
	channels.Wait()
	err = errors.Join(err, i.plain.Close())
	i.opts.Log.Info("stopped")
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func listenError(key, address string, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%s %s: the port is taken; stop the program that has it (ss -ltnp shows it) or set %s to another", key, address, key)
	}
	return fmt.Errorf("%s %s: %w", key, address, err)
}

// lockDir keeps a second server away: upload locks are in memory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; make it writable for the server's user", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrLocked, dir), f.Close())
	}
	return f, nil
}
