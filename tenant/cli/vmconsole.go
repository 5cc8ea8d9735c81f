package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/terminal"
)

type consoleFlags struct {
	escape     string
	scrollback string
	readOnly   bool
	take       bool
	noReattach bool
	safe       bool
	start      bool
	wait       time.Duration
}

func (a *app) vmConsole() *cobra.Command {
	var f consoleFlags
	c := &cobra.Command{
		Use: "console NAME", Short: "Use a VM's serial console",
		Long: `Connects this terminal to the VM's serial port, through a channel that is sealed between
this program and the hypervisor. What the VM printed before is shown first, from the
first byte of its firmware on as far as it is kept (1 MiB). When the connection breaks,
the console attaches again by itself and goes on where it was: no byte is shown twice.

Any number of viewers may look on, 16 at once; one of them types: the first who asks, until
it leaves or another takes over (--take). In a terminal these keys are commands,
right after Enter:

  ~.   leave                          ~w   type, and take that from whoever does
  ~?   help                           ~r   stop typing, look on
  ~#   who is attached                ~s   tell the guest the terminal's size (types "stty rows ...")
  ~~   type ~                         ~^Z  suspend uvbond

A serial port has no size: programs in the guest need to be told when the terminal's changes.
Guests that got their first boot from "vm create" have a bash that asks before each prompt, and is told.
Elsewhere type ~s at a shell's prompt, or have the guest run "resize" where it is installed.

The VM's output goes to your terminal as it is, control sequences included: full-screen
programs need them. A hostile guest can use them to draw anything, for example a prompt that
is not the guest's, to change the terminal's title, and on some terminals to reach the
clipboard. --safe leaves them out, as "uvbond vm log" does. What was printed before is
always cleared of those that make a terminal answer.

When standard input is not a terminal, it is typed as it is, without commands, and as fast as the
guest reads; some guests lose what comes before they ask for it. At its end the console stays until the
VM has printed nothing for --wait. With --json, each part of the output and each event is an object.

Exit codes: 0 left, or the instance has ended in order; 1 it has crashed, or another viewer took
the writing from a script; 3 there is no instance; 4 redirected or forged; 6 the
connection broke, with --no-reattach.`,
		Example: `  uvbond vm console web1
  uvbond vm console web1 --start
  uvbond vm console web1 --take -e ^]
  uvbond vm console web1 --read-only --scrollback none
  echo 'systemctl is-system-running' | uvbond vm console web1 --scrollback none --wait 5s`,
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runConsole(c.Context(), args[0], f)
		},
	}
	c.Flags().StringVarP(&f.escape, "escape", "e", "~", "escape character: one character, ^X, or none")
	c.Flags().StringVar(&f.scrollback, "scrollback", "all", "how much of what was printed before is shown: a size such as 4KiB, all, or none")
	c.Flags().BoolVarP(&f.readOnly, "read-only", "r", false, "look on, do not type; what is piped in is not read, and it goes on until the instance ends")
	c.Flags().BoolVar(&f.take, "take", false, "take the typing from whoever has it")
	c.Flags().BoolVar(&f.noReattach, "no-reattach", false, "end when the connection breaks")
	c.Flags().BoolVar(&f.safe, "safe", false, "leave out the VM's control sequences")
	c.Flags().BoolVar(&f.start, "start", false, "start the VM first, if it does not run")
	c.Flags().DurationVar(&f.wait, "wait", 2*time.Second, "when standard input is no terminal: how long nothing must have been printed after its end")
	c.MarkFlagsMutuallyExclusive("read-only", "take")
	choice(c, "scrollback", "all", "none", "4KiB", "64KiB")
	choice(c, "escape", "~", "^]", "none")
	return c
}

// scrollbackStart reads --scrollback.
func scrollbackStart(text string) (console.Start, error) {
	switch text {
	case "all":
		return console.All(), nil
	case "none":
		return console.Last(0), nil
	}
	n, err := parseBytes(text)
	if err != nil {
		return console.Start{}, fail.New(fail.Usage, "give a size such as 4KiB, all, or none", "--scrollback %q is not a size", text)
	}
	return console.Last(n), nil
}

func (a *app) runConsole(ctx context.Context, name string, f consoleFlags) error {
	start, err := scrollbackStart(f.scrollback)
	if err != nil {
		return err
	}
	escapes, err := terminal.NewEscapes(f.escape)
	if err != nil {
		return fail.Wrap(err, fail.Usage, "for example -e ~ or -e ^]", "--escape")
	}
	if f.wait < 0 {
		return fail.New(fail.Usage, "for example --wait 5s", "--wait %s is not a time to wait", f.wait)
	}
	o, err := a.owner()
	if err != nil {
		return err
	}
	if f.start {
		if err := a.startFirst(ctx, o, name); err != nil {
			return err
		}
	}
	mode := console.Write
	switch {
	case f.readOnly:
		mode = console.Read
	case f.take:
		mode = console.Take
	}
	v := newConsoleView(a, name, escapes, f)
	v.opener = &instanceOpener{owner: o, name: name}
	v.session = terminal.New(terminal.Options{
		Open: v.opener.open, Final: v.final, Output: v.output, Event: v.event,
		Name: whoami(), Mode: mode, Start: start, Size: v.size(), Reattach: !f.noReattach,
		Answer: v.tty != nil && !f.safe && !a.json,
	})
	return v.run(ctx)
}

// startFirst starts the VM unless it has an instance.
func (a *app) startFirst(ctx context.Context, o *tenant.Owner, name string) error {
	rep := a.reporter()
	rep.Begin(name+": starting", 0)
	res, err := o.Run(ctx, name, tenant.Start)
	rep.End()
	if fail.ClassOf(err) == "Running" {
		return nil
	}
	if err == nil {
		a.note("%s", resultJSON(res, nil).text())
	}
	return err
}

// whoami is how this viewer is shown to others.
func whoami() string {
	who := "uvbond"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		who += "@" + host
	}
	return who
}

// errInstanceChanged says that the instance whose console it was is not the newest.
var errInstanceChanged = errors.New("a newer instance runs")

// instanceOpener opens channels to the console of one instance: the one that there
// was at first.
type instanceOpener struct {
	owner    *tenant.Owner
	name     string
	instance uint64
}

func (i *instanceOpener) open(ctx context.Context) (net.Conn, error) {
	c, err := i.owner.OpenChannel(ctx, i.name, channel.KindConsole, 0)
	if err != nil {
		return nil, err
	}
	vm, err := i.owner.Store.VM(i.name)
	if err == nil && i.instance != 0 && vm.Instance != i.instance {
		err = fail.Wrap(errInstanceChanged, fail.Refused, "attach to it: uvbond vm console "+i.name, "instance %d of %q has ended", i.instance, i.name)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	i.instance = vm.Instance
	return c, nil
}

// final tells after which errors attaching again makes no sense: not when the connection or the
// hypervisor's part of it was gone for a moment.
func (v *consoleView) final(err error) bool {
	var known *fail.Error
	if !errors.As(err, &known) {
		why := channel.WhyOf(err)
		return why.Suspicious() || why == channel.Malformed
	}
	switch known.Code {
	case fail.Connection, fail.Unknown:
		return false
	case fail.Refused:
		return known.Class != "Unavailable" && known.Class != "Busy"
	}
	return true
}

// result gives an ended session its words and exit code.
func (v *consoleView) result(ctx context.Context, err error) error {
	var ended *terminal.EndedError
	switch {
	case err == nil, ctx.Err() != nil && errors.Is(context.Cause(ctx), errLeft):
		return nil
	case errors.As(err, &ended):
		return v.endedAs(ended.End)
	case errors.Is(err, terminal.ErrMisbehaved), errors.Is(err, console.ErrMalformed):
		return fail.Wrap(err, fail.Other, "update uvbond, or tell the provider", "console of %q", v.name)
	case errors.Is(err, console.ErrVersion):
		return fail.Wrap(err, fail.Other, "update the older of uvbond and the hypervisor", "console of %q", v.name)
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return fail.Wrap(err, fail.Connection, "attach again: uvbond vm console "+v.name, "the console of %q", v.name)
	}
	return tenant.ChannelFailure(v.name, err)
}

func (v *consoleView) endedAs(e console.End) error {
	why := (&terminal.EndedError{End: e}).Error()
	switch e.Why {
	case console.InstanceEnded:
		v.status("%s: %s", v.name, why)
		return nil
	case console.InstanceCrashed:
		return fail.New(fail.Other, "the hypervisor's record: uvbond audit "+v.name+"; start it again: uvbond vm start "+v.name, "%s: %s", v.name, why)
	case console.HostRestarted:
		return fail.New(fail.Connection, "attach again: uvbond vm console "+v.name, "%s: %s", v.name, why)
	case console.Crowded:
		return fail.New(fail.Other, fmt.Sprintf("there is room for %d; end one of them", console.MaxViewers), "%s: %s", v.name, why)
	}
	return fail.New(fail.Other, "update uvbond, or tell the provider", "%s: %s", v.name, why)
}
