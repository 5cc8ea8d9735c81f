package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

// maxForwards bounds the ports of one vm forward: each is a channel.
const maxForwards = 16

// mapping is one LOCAL:PORT.
type mapping struct {
	listen string // address and port
	port   uint16 // of the guest
}

func parseMapping(text string) (mapping, error) {
	bad := fail.New(fail.Usage, "write LOCAL:PORT, for example 8080:80, or ADDRESS:LOCAL:PORT; LOCAL 0 takes a free port", "%q is no forwarding", text)
	local, portText, ok := cutLast(text)
	if !ok {
		return mapping{}, bad
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return mapping{}, bad
	}
	address := "127.0.0.1"
	if a, l, ok := cutLast(local); ok {
		address, local = strings.TrimSuffix(strings.TrimPrefix(a, "["), "]"), l
		if _, err := netip.ParseAddr(address); err != nil && address != "localhost" {
			return mapping{}, bad
		}
	}
	if _, err := strconv.ParseUint(local, 10, 16); err != nil {
		return mapping{}, bad
	}
	return mapping{net.JoinHostPort(address, local), uint16(port)}, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func (a *app) vmForward() *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use: "forward NAME [ADDRESS:]LOCAL:PORT...", Short: "Let programs here reach ports of a VM",
		Long: `Listens on local ports and joins each connection to one of the guest's ports, through
a channel that is sealed between this machine and the VM: the guest needs no network
that others can reach. It listens on 127.0.0.1 unless another address is given; who can
reach that address can connect. LOCAL 0 takes a free port, and what it became is printed.

It runs until interrupted. A channel that breaks is opened again; connections that went
through it break with it. The VM must have a card for channels (vm create makes one).
With --json the listening addresses are one object.`,
		Example: "  uvbond vm forward web1 8080:80\n  uvbond vm forward web1 8080:80 127.0.0.1:5433:5432\n  uvbond vm forward web1 0:22 --json",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && len(args) <= 1 {
				return fail.New(fail.Usage, "for example: uvbond vm forward "+args[0]+" 8080:80", "LOCAL:PORT is missing")
			}
			return between(2, 1+maxForwards)(c, args)
		},
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			var list []mapping
			for _, text := range args[1:] {
				m, err := parseMapping(text)
				if err != nil {
					return err
				}
				list = append(list, m)
			}
			o, err := a.owner()
			if err != nil {
				return err
			}
			return a.forward(c.Context(), o, args[0], list, quiet)
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not tell of broken connections and channels")
	return c
}

type forwardView struct {
	VM       string            `json:"vm"`
	Forwards []forwardPortView `json:"forwards"`
}

type forwardPortView struct {
	Address string `json:"address"` // listening here
	Port    uint16 `json:"port"`    // of the guest
}

// forward listens before it opens channels, so that a taken port costs no ticket.
func (a *app) forward(ctx context.Context, o *tenant.Owner, name string, list []mapping, quiet bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	view := forwardView{VM: name}
	for _, m := range list {
		l, err := net.Listen("tcp", m.listen)
		if err != nil {
			return fail.Wrap(err, fail.Other, "choose another port, or 0 for a free one", "cannot listen on %s", m.listen)
		}
		listeners = append(listeners, l)
		view.Forwards = append(view.Forwards, forwardPortView{l.Addr().String(), m.port})
	}
	var mu sync.Mutex
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if !quiet {
			a.note("%s", text)
		}
	}
	open := map[uint16]*tenant.Forwarding{}
	for _, m := range list {
		if open[m.port] != nil {
			continue
		}
		f, err := o.Forward(ctx, name, m.port, note)
		if err != nil {
			return err
		}
		open[m.port] = f
	}
	if err := a.print(view, view.text); err != nil {
		return err
	}
	var work sync.WaitGroup
	for _, f := range open {
		work.Go(func() { cancel(f.Run(ctx)) })
	}
	for i, l := range listeners {
		work.Go(func() { open[list[i].port].Serve(ctx, l) })
	}
	<-ctx.Done()
	for _, l := range listeners {
		l.Close()
	}
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	note("no longer forwarding")
	return nil
}

func (v forwardView) text(w io.Writer) {
	for _, f := range v.Forwards {
		fmt.Fprintf(w, "%s -> port %d of %s\n", f.Address, f.Port, v.VM)
	}
}

func (a *app) vmConnect() *cobra.Command {
	return &cobra.Command{
		Use: "connect NAME PORT", Short: "Join standard input and output to a port of a VM",
		Long: `Connects to a port of the guest through a sealed channel: what is read from standard
input goes there, and what comes is written to standard output. The end of the input is
passed on, and so is that of the guest's output. It ends when both directions have ended;
on a terminal, when the guest's has. Where nobody listens the guest's connection ends at
once: when nothing came, and nothing was taken, that is an error. ssh uses it as its
ProxyCommand (see vm ssh-config).`,
		Example:           "  uvbond vm connect web1 22\n  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | uvbond vm connect web1 80",
		Args:              exactly(2),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			port, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || port == 0 {
				return fail.New(fail.Usage, "give a number from 1 to 65535", "%q is no port", args[1])
			}
			o, err := a.owner()
			if err != nil {
				return err
			}
			a.silent = true
			return o.ConnectPort(c.Context(), args[0], uint16(port), a.in, closing(a.out), term.IsTerminal(int(a.in.Fd())), func(text string) { a.note("%s", text) })
		},
	}
}

// closing adds CloseWrite to a standard output where somebody waits for its end.
func closing(out io.Writer) io.Writer {
	f, ok := out.(*os.File)
	if !ok {
		return out
	}
	st, err := f.Stat()
	switch {
	case err == nil && st.Mode()&fs.ModeNamedPipe != 0:
		return pipeOut{f}
	case err == nil && st.Mode()&fs.ModeSocket != 0:
		return socketOut{f}
	}
	return out
}

type pipeOut struct{ *os.File }

func (p pipeOut) CloseWrite() error { return p.Close() }

// socketOut may be standard input as well, so that closing it would not end it.
type socketOut struct{ *os.File }

func (s socketOut) CloseWrite() error { return syscall.Shutdown(int(s.Fd()), syscall.SHUT_WR) }

// home is the state folder if the environment chose it, for programs that run uvbond.
func home() string { return os.Getenv("UVBOND_HOME") }
