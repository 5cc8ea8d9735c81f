// Command vhostserve exports a file, enciphered with a key of no secrecy, over
// vhost-user-blk: for measurements beside other back ends.
//
//	vhostserve -file /dev/shm/disk -socket /tmp/blk.sock
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/vhostuser"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vhostserve:", err)
		os.Exit(1)
	}
}

func run() error {
	file := flag.String("file", "", "`path` of the ciphertext")
	socket := flag.String("socket", "", "`path` to listen at")
	sector := flag.Uint("sector", 4096, "`bytes` that are enciphered at once")
	queues := flag.Int("queues", 4, "virtqueues that are offered")
	poll := flag.Duration("poll", vhostuser.DefaultPoll, "how long a queue may look for work before it sleeps")
	debug := flag.String("pprof", "", "loopback `address` for profiles")
	flag.Parse()
	if *debug != "" {
		go func() { _ = http.ListenAndServe(*debug, nil) }()
	}
	f, err := os.OpenFile(*file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		return err
	}
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i)
	}
	d, err := disk.NewDevice(b, disk.Params{Key: key, SectorSize: uint32(*sector), Length: uint64(b.Size()), Discard: true})
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	s := &vhostuser.Server{Device: d, Serial: "vhostserve", Queues: *queues, Poll: *poll, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	return s.Serve(ctx, l)
}
