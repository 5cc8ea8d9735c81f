package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbd"
	"github.com/uvbond/uvbond/test/lab"
)

// servers are what this program does instead of measuring.
var servers = map[string]func([]string) error{
	"serve-nbd":   serveNBD,
	"serve-many":  serveMany,
	"serve-vhost": serveVhost,

	"serve-keeper":    serveKeeper,
	"serve-websocket": serveWebSocket,

	"operator": operate,
}

// operate is the operator of a lab.
func operate(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench operator CONFIGURATION")
	}
	os.Exit(lab.OperatorMain(args[0]))
	return nil
}

// open makes the enciphered device on a file, as the keeper does.
func open(path string) (*disk.Device, error) {
	debug.SetGCPercent(50)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i)
	}
	return disk.NewDevice(b, disk.Params{Key: key, SectorSize: 4096, Length: uint64(b.Size()), Discard: true})
}

func serveNBD(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench serve-nbd FILE SOCKET")
	}
	return serveMany(args)
}

func serveMany(args []string) error {
	if len(args) == 0 || len(args)%2 != 0 {
		return errors.New("usage: bench serve-many FILE SOCKET [FILE SOCKET ...]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var serving errgroup.Group
	for ; len(args) > 0; args = args[2:] {
		d, err := open(args[0])
		if err != nil {
			return err
		}
		defer d.Close()
		l, err := net.Listen("unix", args[1])
		if err != nil {
			return err
		}
		serving.Go(func() error { return (&nbd.Server{Exports: []nbd.Export{{Device: d}}}).Serve(ctx, l) })
	}
	return serving.Wait()
}
