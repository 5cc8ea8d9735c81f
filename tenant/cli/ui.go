package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/ui"
)

type uiFlags struct {
	port int
	open bool
	idle time.Duration
}

func (a *app) uiCommand() *cobra.Command {
	var f uiFlags
	c := &cobra.Command{
		Use: "ui", Short: "Serve a page to see and command your VMs in a browser",
		Long: `Serves a page on 127.0.0.1, for a browser on this machine, until Ctrl-C. It shows VMs with
their verified state, runs commands and shows how they go, and has the time line of the
audit log, a terminal, the screen, and who may do what. It can do what uvbond can, as you.

The link that is printed logs one browser in, once, within five minutes. For another
one press Enter, or send the process SIGUSR1. A session ends when you log out, when
uvbond ui ends, or when nobody used the page for as long as --idle says.

With --json each link is one line: {"url": ..., "expires": ...}. docs/ui.md says more.`,
		Example:           "  uvbond ui\n  uvbond ui --open\n  uvbond ui --port 8899 --json",
		Args:              exactly(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return a.runUI(c.Context(), f) },
	}
	c.Flags().IntVar(&f.port, "port", 0, "port to listen on; 0 takes a free one")
	c.Flags().BoolVar(&f.open, "open", false, "start a browser with the link")
	c.Flags().DurationVar(&f.idle, "idle", ui.DefaultIdle, "end a session that nobody used for so long")
	return c
}

func (a *app) runUI(ctx context.Context, f uiFlags) error {
	if f.port < 0 || f.port > 65535 {
		return fail.New(fail.Usage, "for example --port 8899", "%d is no port", f.port)
	}
	if f.idle < time.Minute || f.idle > 24*time.Hour {
		return fail.New(fail.Usage, "for example --idle 30m", "--idle must be between 1m and 24h")
	}
	o, err := a.owner()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port)))
	if err != nil {
		return fail.Wrap(err, fail.Other, "choose another --port, or none", "cannot serve the page")
	}
	defer l.Close()
	s, err := ui.New(ui.Options{Owner: o, Doctor: a.findings, Version: version(), Idle: f.idle}, l.Addr())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := a.link(s)
	if err != nil {
		return err
	}
	if f.open {
		undo, err := browse(o.Store.Dir(), first)
		defer undo()
		if err != nil {
			a.note("note: no browser was started (%v): open the link yourself", err)
		}
	}
	if a.terminal() {
		a.note("press Enter for another link, Ctrl-C to end")
	}
	go a.moreLinks(ctx, s)
	return s.Serve(ctx, l)
}

// findings is doctor, for the page.
func (a *app) findings(ctx context.Context) []ui.Finding {
	list, _ := a.examine(ctx)
	out := make([]ui.Finding, 0, len(list))
	for _, f := range list {
		out = append(out, ui.Finding(f))
	}
	return out
}

// link prints a new one-time link. With --json it is one line, for programs that
// read line by line.
func (a *app) link(s *ui.Server) (string, error) {
	url := s.Link()
	if a.json {
		_, err := fmt.Fprintf(a.out, "{\"url\":%q,\"expires\":%d}\n", url, time.Now().Add(ui.LinkLife).Unix())
		return url, err
	}
	_, err := fmt.Fprintln(a.out, url)
	return url, err
}

// moreLinks prints another link for each line that is typed, and for each SIGUSR1.
func (a *app) moreLinks(ctx context.Context, s *ui.Server) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	lines := make(chan struct{})
	if a.terminal() {
		go func() {
			in := bufio.NewReader(a.in)
			for {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
				select {
				case lines <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		case <-lines:
		}
		if _, err := a.link(s); err != nil {
			return
		}
	}
}

// browse starts the desktop's browser. Its arguments can be read by every user of this
// machine, so they name a file of the owner's that leads on to the link. undo removes it.
func browse(dir, url string) (undo func(), err error) {
	undo = func() {}
	program := ""
	for _, name := range []string{"xdg-open", "open", "sensible-browser"} {
		if program, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return undo, errors.New("there is neither xdg-open nor open here")
	}
	f, err := os.CreateTemp(dir, "ui-*.html") // 0600
	if err != nil {
		return undo, err
	}
	undo = func() { os.Remove(f.Name()) }
	_, err = fmt.Fprintf(f, "<!doctype html><meta http-equiv=\"refresh\" content=\"0; url=%s\"><a href=\"%[1]s\">UVBond</a>\n", url)
	if err = errors.Join(err, f.Close()); err != nil {
		return undo, err
	}
	cmd := exec.Command(program, f.Name()) // its standard streams are the null device
	if err := cmd.Start(); err != nil {
		return undo, err
	}
	go func() { _ = cmd.Wait() }()
	return undo, nil
}
