package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/rfb"
	"github.com/uvbond/uvbond/tenant/screen"
)

// screenTime bounds what is waited for one picture, or for keys to be taken.
const screenTime = time.Minute

// openScreen opens a channel to the VM's screen.
func (a *app) openScreen(ctx context.Context, name string) (net.Conn, error) {
	o, err := a.owner()
	if err != nil {
		return nil, err
	}
	return o.OpenChannel(ctx, name, channel.KindScreen, 0)
}

// withScreen runs something with a client of the VM's screen, within a time.
func (a *app) withScreen(ctx context.Context, name, label string, limit time.Duration, run func(context.Context, *rfb.Client) error) error {
	rep := a.reporter()
	rep.Begin(name+": "+label, 0)
	defer rep.End()
	conn, err := a.openScreen(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Other, "see: uvbond vm status "+name, "the screen of %q did not answer within %s", name, limit))
	defer cancel()
	c, err := rfb.Connect(ctx, conn)
	if err != nil {
		return screenFailed(name, err)
	}
	err = run(ctx, c)
	_ = c.Close()
	return screenFailed(name, err)
}

// screenFailed puts a class and a hint to an error of package rfb or screen; one of the
// channel has its own.
func screenFailed(name string, err error) error {
	var known *fail.Error
	err = tenant.ChannelFailure(name, err)
	switch {
	case err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, rfb.ErrScreenGone):
		return fail.Wrap(err, fail.Other, "it ends with the instance; see: uvbond vm status "+name, "%s", name)
	case errors.Is(err, screen.ErrNobodyCame):
		return fail.Wrap(err, fail.Other, "start it again, with a longer --wait if needed", "%s", name)
	case errors.Is(err, rfb.ErrTooManyTries):
		return fail.Wrap(err, fail.Other, "some program on this machine tries; start it again for another password", "the port of %s is closed", name)
	}
	return fail.Wrap(err, fail.Other, "try again; does the VM run? uvbond vm status "+name, "the screen of %s", name)
}

type screenFlags struct {
	listen         string
	port           uint16
	viewer         string
	once, viewOnly bool
	wait           time.Duration
}

func (a *app) vmScreen() *cobra.Command {
	var f screenFlags
	c := &cobra.Command{
		Use: "screen NAME", Short: "Show a VM's screen in a VNC viewer",
		Long: `Opens a port on this machine for a VNC viewer and prints its address and a password
that lets one viewer in, once. The screen, keys and clipboard go through a channel that
is sealed between this program and the hypervisor. One viewer is served at a time; when
it has left, a new password is printed, unless --once is given.

With --viewer the first VNC viewer that is found is started and given the password
(vncviewer of TigerVNC or TightVNC, remote-viewer), or must be told it (gvncviewer, and
what vnc:// addresses are opened with). --viewer=CMD starts another one; in CMD,
{address}, {host}, {port}, {display}, {url} and {password-file} are replaced, and
without any of them the address is added as HOST::PORT.

Between this program and the viewer nothing is encrypted, and VNC's password protects
little: the port is on a loopback address only. A VM that was created with --no-screen
has none.`,
		Example: `  uvbond vm screen web1
  uvbond vm screen web1 --viewer
  uvbond vm screen web1 --viewer='xtightvncviewer -passwd {password-file} {address}'
  uvbond vm screen web1 --view-only --once --port 5901`,
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runScreen(c.Context(), args[0], f, c.Flags().Changed("viewer"))
		},
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1", "loopback address to listen on")
	c.Flags().Uint16Var(&f.port, "port", 0, "port to listen on (default: a free one)")
	c.Flags().StringVar(&f.viewer, "viewer", "", "start a viewer: one that is found, or this command")
	c.Flags().Lookup("viewer").NoOptDefVal = viewerFound
	c.Flags().BoolVar(&f.once, "once", false, "end when the first viewer has left")
	c.Flags().BoolVar(&f.viewOnly, "view-only", false, "show, and take no keys, pointer or clipboard")
	c.Flags().DurationVar(&f.wait, "wait", 10*time.Minute, "how long a password waits for a viewer; 0: for ever")
	choice(c, "listen", "127.0.0.1", "::1")
	return c
}

// loopback checks --listen: elsewhere the screen would leave the machine in the open.
func loopback(address string) (net.IP, error) {
	if address == "localhost" {
		address = "127.0.0.1"
	}
	ip := net.ParseIP(address)
	if ip == nil || !ip.IsLoopback() {
		return nil, fail.New(fail.Usage, "for a viewer on another machine, carry the port there by ssh -L", "%q is not a loopback address: the screen would travel unprotected", address)
	}
	return ip, nil
}

func (a *app) runScreen(ctx context.Context, name string, f screenFlags, start bool) error {
	ip, err := loopback(f.listen)
	if err != nil {
		return err
	}
	if f.wait < 0 {
		return fail.New(fail.Usage, "for example --wait 30m, or --wait 0 without a limit", "--wait %s is not a time to wait", f.wait)
	}
	var v *viewer
	if start {
		if v, err = findViewer(f.viewer); err != nil {
			return err
		}
	}
	if err := a.reachesScreen(ctx, name); err != nil {
		return err
	}
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: int(f.port)})
	if err != nil {
		return fail.Wrap(err, fail.Other, "give another --port, or none for a free one", "cannot listen")
	}
	p := &screen.Port{
		Open:  func(ctx context.Context) (net.Conn, error) { return a.openScreen(ctx, name) },
		Watch: f.viewOnly, Once: f.once || v != nil, Wait: f.wait,
		Note: func(text string) { a.note("%s: %s", name, text) },
	}
	at := ln.Addr().(*net.TCPAddr)
	if v != nil {
		return screenFailed(name, a.serveTo(ctx, v, p, ln, name))
	}
	p.Invite = func(pw *rfb.Password) { a.invite(name, at, p, pw) }
	return screenFailed(name, p.Serve(ctx, ln))
}

// reachesScreen opens a channel and closes it again: nobody shall be invited to a screen that
// is not there.
func (a *app) reachesScreen(ctx context.Context, name string) error {
	if err := a.hasScreen(name); err != nil {
		return err
	}
	c, err := a.openScreen(ctx, name)
	if err != nil {
		return err
	}
	return c.Close()
}

// hasScreen tells early, without a channel, that a VM was registered without a screen.
func (a *app) hasScreen(name string) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	vm, err := o.Store.VM(name)
	if err != nil {
		return err
	}
	if !vm.Spec.Screen {
		return fail.New(fail.Usage, "a VM has one from its registration on: uvbond vm create without --no-screen", "%q was registered without a screen", name)
	}
	return nil
}

type invitation struct {
	VM       string `json:"vm"`
	Address  string `json:"address"`
	URL      string `json:"url"`
	Display  int    `json:"display"` // what some viewers want in place of the port
	Password string `json:"password"`
	Wait     int64  `json:"wait_seconds"` // 0: no limit
	ViewOnly bool   `json:"view_only"`
}

// invite prints where a viewer may come in, and with which password.
func (a *app) invite(name string, at *net.TCPAddr, p *screen.Port, pw *rfb.Password) {
	v := invitation{
		VM: name, Address: at.String(), URL: "vnc://" + at.String(), Display: at.Port - vncBase,
		Password: pw.Reveal(), Wait: int64(p.Wait / time.Second), ViewOnly: p.Watch,
	}
	_ = a.print(v, func(w io.Writer) {
		how := "once"
		if p.Wait > 0 {
			how = "once, within " + strings.Replace(p.Wait.String(), "m0s", "m", 1)
		}
		fmt.Fprintf(w, "the screen of %s is at %s (vncviewer %s)\npassword: %s (lets one viewer in, %s)\n", name, v.URL, doubled(at), v.Password, how)
	})
}

// vncBase is the port of display 0.
const vncBase = 5900

// doubled writes an address as viewers take a port and not a display: HOST::PORT.
func doubled(at *net.TCPAddr) string {
	host := at.IP.String()
	if at.IP.To4() == nil {
		host = "[" + host + "]"
	}
	return host + "::" + strconv.Itoa(at.Port)
}
