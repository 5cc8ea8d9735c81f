package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp/recorder"
	"github.com/uvbond/uvbond/tenant/fail"
)

type recordFlags struct {
	out, listen, connect string
	count                int
	gate                 bool
}

// recordedView is one session that was recorded.
type recordedView struct {
	File       string `json:"file,omitempty"`
	Hypercalls int    `json:"hypercalls"`
	Warning    string `json:"warning,omitempty"`
}

func (a *app) automatonRecord() *cobra.Command {
	var f recordFlags
	c := &cobra.Command{
		Use: "record [FILE]", Short: "Record sessions for automaton learn and automaton run",
		Long: `Writes QMP sessions down as traces: from FILE or standard input, a stream of QMP messages in
both directions; or by standing between a client and a QMP server on unix sockets. There
everything is passed on unchanged, descriptors included; --count sessions are recorded one
after the other, and more than one are written into files of their own, OUT-1.jsonl and so on.

With --gate the server is the hypervisor's gate: what stands between uvbond-open and
uvbond-close is kept, and connections without a session leave no file. The gate sees this
program as the sender of every message, so run it as the management server's user.

A recording holds what was sent, passwords included. Its file is readable by you only.`,
		Example: `  uvbond automaton record qmp.log --out save-1.jsonl
  uvbond automaton record --listen /run/vm1.record --connect /run/vm1.qmp --out save-1.jsonl
  uvbond automaton record --gate --listen /run/uvbond/record.sock --connect /run/uvbond/gate/gate.sock --count 3 --out pause.jsonl`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case (f.listen == "") != (f.connect == ""):
				return fail.New(fail.Usage, "give both", "--listen and --connect belong together")
			case f.listen != "" && len(args) > 0:
				return fail.New(fail.Usage, "give one of them", "a file and --listen are two sources")
			case f.listen == "" && len(args) == 0:
				return fail.New(fail.Usage, `a FILE, "-" for standard input, or --listen and --connect`, "nothing to record from")
			case f.count < 0 || f.count > 0 && f.listen == "":
				return fail.New(fail.Usage, "--listen PATH --connect PATH --count N", "--count is how many sessions to record on a socket")
			case f.listen != "" && f.out == "":
				return fail.New(fail.Usage, "--out FILE.jsonl", "a session on a socket is recorded into a file")
			case f.listen != "":
				return a.recordSocket(c.Context(), f)
			}
			return a.recordStream(c.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.out, "out", "", "file to write (default, for a stream: standard output)")
	c.Flags().StringVar(&f.listen, "listen", "", "unix socket to make, for the client to connect to")
	c.Flags().StringVar(&f.connect, "connect", "", "unix socket of the QMP server")
	c.Flags().IntVar(&f.count, "count", 0, "sessions to record on a socket (default 1)")
	c.Flags().BoolVar(&f.gate, "gate", false, "the server is the hypervisor's gate: keep what stands inside of sessions")
	return c
}

// recordStream records a stream of both directions. Only one that comes as it
// happens has times.
func (a *app) recordStream(ctx context.Context, path string, f recordFlags) error {
	in := io.Reader(a.in)
	options := recorder.Options{Gate: f.gate}
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return fail.Wrap(err, fail.Other, "check the path", "cannot read a stream")
		}
		defer file.Close()
		in = file
	} else if st, err := a.in.Stat(); err == nil && !st.Mode().IsRegular() {
		options.Now = time.Now
	}
	out := io.Writer(a.out)
	if f.out != "" {
		file, err := newRecording(f.out)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	r := recorder.New(out, options)
	done := make(chan error, 1)
	go func() { done <- r.Stream(in) }()
	var err error
	select {
	case <-ctx.Done(): // what was recorded so far is what was wanted
	case err = <-done:
	}
	if err != nil {
		return fail.Wrap(err, fail.Other, "a stream of QMP messages, one behind the other", "%s", path)
	}
	if f.out == "" {
		return nil
	}
	return a.recorded([]recordedView{{File: f.out, Hypercalls: r.Calls()}})
}

func (a *app) recorded(list []recordedView) error {
	return a.print(list, func(w io.Writer) {
		for _, v := range list {
			fmt.Fprintf(w, "recorded %s to %s\n", counted(v.Hypercalls, "hypercall"), v.File)
			if v.Warning != "" {
				fmt.Fprintf(w, "warning: %s: the recording ends there: %s\n", v.File, v.Warning)
			}
		}
	})
}

// newRecording makes a file that is not there yet.
func newRecording(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fail.New(fail.Usage, "give another name with --out", "%s exists", path)
	}
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "check the path", "cannot write a recording")
	}
	return file, nil
}

// recordSocket records sessions that pass through a socket of its own.
func (a *app) recordSocket(ctx context.Context, f recordFlags) error {
	want := max(1, f.count)
	mask := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.listen, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return fail.Wrap(err, fail.Other, "is the path taken? a socket that is left over may be removed", "cannot listen")
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for n := range want { // before anything is recorded
		if _, err := os.Lstat(recordingName(f.out, want, n+1)); err == nil {
			return fail.New(fail.Usage, "give another name with --out", "%s exists", recordingName(f.out, want, n+1))
		}
	}
	a.note("recording %s through %s; Ctrl-C ends it", counted(want, "session"), f.listen)
	return a.recordConnections(ctx, l, f, want)
}

// result is what became of one connection; file is "" when nothing was kept.
type connectionResult struct {
	file string
	view recordedView
	err  error
}

// recordConnections serves connections, several at once, until enough of them
// had something to keep.
func (a *app) recordConnections(ctx context.Context, l *net.UnixListener, f recordFlags, want int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results, clients, failed := make(chan connectionResult), make(chan *net.UnixConn), make(chan error, 1)
	go func() {
		for {
			client, err := l.AcceptUnix()
			if err != nil {
				failed <- err
				return
			}
			select {
			case clients <- client:
			case <-ctx.Done():
				client.Close()
			}
		}
	}()
	list, open := []recordedView{}, 0
	var failure error
	for (len(list) < want && failure == nil && ctx.Err() == nil) || open > 0 {
		select {
		case client := <-clients:
			open++
			go func() { results <- recordConnection(ctx, client, f) }()
		case err := <-failed:
			if failed = nil; ctx.Err() == nil {
				failure = fail.Wrap(err, fail.Other, "", "cannot accept a client")
			}
			cancel()
		case r := <-results:
			open--
			switch {
			case r.err != nil:
				failure = cmp.Or(failure, r.err)
			case r.file != "" && len(list) < want:
				r.view.File = recordingName(f.out, want, len(list)+1)
				if err := os.Link(r.file, r.view.File); err != nil {
					failure = fail.Wrap(err, fail.Other, "give another name with --out", "cannot write %s", r.view.File)
				} else {
					list = append(list, r.view)
				}
			}
			if r.file != "" {
				os.Remove(r.file)
			}
			if len(list) == want || failure != nil {
				cancel() // others that are still open end
			}
		}
	}
	if err := a.recorded(list); err != nil || failure != nil {
		return cmp.Or(failure, err)
	}
	return nil
}

// recordingName numbers the files of several sessions.
func recordingName(out string, want, n int) string {
	if want == 1 {
		return out
	}
	ext := filepath.Ext(out)
	return fmt.Sprintf("%s-%d%s", strings.TrimSuffix(out, ext), n, ext)
}

// recordConnection records one connection into a file without a name of its own
// yet, beside the one that it will get.
func recordConnection(ctx context.Context, client *net.UnixConn, f recordFlags) connectionResult {
	defer client.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", f.connect)
	if err != nil {
		return connectionResult{err: fail.Wrap(err, fail.Other, "does the QMP server run?", "cannot connect")}
	}
	defer conn.Close()
	server, ok := conn.(*net.UnixConn)
	if !ok {
		return connectionResult{err: fail.New(fail.Other, "", "%s is no unix socket", f.connect)}
	}
	file, err := os.CreateTemp(filepath.Dir(f.out), ".record-*")
	if err != nil {
		return connectionResult{err: fail.Wrap(err, fail.Other, "check the path", "cannot write a recording")}
	}
	r := recorder.New(file, recorder.Options{Gate: f.gate, Now: time.Now})
	err = r.Relay(ctx, client, server)
	if closed := file.Close(); closed != nil {
		err = fail.Wrap(closed, fail.Other, "check the disk", "cannot write a recording")
	}
	out := connectionResult{file: file.Name(), view: recordedView{Hypercalls: r.Calls()}}
	switch {
	case f.gate && r.Calls() == 0 || ctx.Err() != nil && r.Calls() == 0:
		os.Remove(out.file)
		return connectionResult{}
	case err != nil && ctx.Err() == nil:
		os.Remove(out.file)
		return connectionResult{err: fail.Wrap(err, fail.Other, "", "the session ended early")}
	}
	if warning := r.Err(); warning != nil {
		out.view.Warning = warning.Error()
	}
	return out
}
