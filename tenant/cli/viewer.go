package cli

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/rfb"
	"github.com/uvbond/uvbond/tenant/screen"
)

// viewerFound is --viewer without a command.
const viewerFound = "found"

// viewers are the VNC viewers that are looked for, in this order, and how each is told
// where to go. Passwords go by file: a command line is for all to see.
var viewers = []struct {
	name string
	args string
}{
	{"xtigervncviewer", "-passwd {password-file} {address}"},
	{"xtightvncviewer", "-passwd {password-file} {address}"},
	{"vncviewer", "-passwd {password-file} {address}"},
	{"remote-viewer", "{virt-viewer-file}"},
	{"gvncviewer", "{host}:{display}"},
	{"xdg-open", "{url}"},
}

// viewer is a program to start.
type viewer struct {
	path string
	args []string
}

// asks tells whether the person must type the password into it.
func (v *viewer) asks() bool {
	all := strings.Join(v.args, " ")
	return !strings.Contains(all, "{password-file}") && !strings.Contains(all, "{virt-viewer-file}")
}

// findViewer looks for a viewer, or for the program of a command.
func findViewer(command string) (*viewer, error) {
	if command != viewerFound {
		words := strings.Fields(command)
		if len(words) == 0 {
			return nil, fail.New(fail.Usage, "--viewer alone looks for one; --viewer=CMD starts CMD", "the command of --viewer is empty")
		}
		path, err := exec.LookPath(words[0])
		if err != nil {
			return nil, fail.Wrap(err, fail.Usage, "give its path", "cannot start the viewer")
		}
		args := words[1:]
		if !strings.Contains(command, "{") {
			args = append(args, knownArgs(path)...)
		}
		return &viewer{path, args}, nil
	}
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return nil, fail.New(fail.Usage, "leave --viewer out, and reach the port from a desktop by ssh -L", "there is no desktop here for a viewer (neither DISPLAY nor WAYLAND_DISPLAY is set)")
	}
	for _, k := range viewers {
		if path, err := exec.LookPath(k.name); err == nil {
			return &viewer{path, strings.Fields(k.args)}, nil
		}
	}
	return nil, fail.New(fail.Usage, "install one (Debian: apt-get install tigervnc-viewer), or name it with --viewer=CMD", "no VNC viewer was found")
}

// knownArgs are the arguments of a viewer by its name.
func knownArgs(path string) []string {
	for _, k := range viewers {
		if filepath.Base(path) == k.name {
			return strings.Fields(k.args)
		}
	}
	return []string{"{address}"}
}

// Descriptors of a viewer in which it finds what it must read from a file: the first
// that exec.Cmd gives.
const (
	passwordFile   = "/dev/fd/3"
	virtViewerFile = "/dev/fd/4"
)

// fill puts the address into the arguments, and what must be read from a file into
// files without a name: whatever ends this program, no password is left behind. They are
// for the viewer's ExtraFiles, and the caller closes them.
func (v *viewer) fill(at *net.TCPAddr, name string, pw *rfb.Password) (args []string, files []*os.File, err error) {
	text := "[virt-viewer]\ntype=vnc\nhost=" + at.IP.String() + "\nport=" + strconv.Itoa(at.Port) + "\npassword=" + pw.Reveal() + "\ntitle=" + name + "\n"
	for _, content := range [][]byte{pw.PasswordFile(), []byte(text)} {
		f, err := nameless(content)
		if err != nil {
			closeAll(files)
			return nil, nil, err
		}
		files = append(files, f)
	}
	host := at.IP.String()
	if at.IP.To4() == nil {
		host = "[" + host + "]"
	}
	r := strings.NewReplacer("{address}", doubled(at), "{host}", host, "{port}", strconv.Itoa(at.Port), "{display}", strconv.Itoa(at.Port-vncBase),
		"{url}", "vnc://"+at.String(), "{password-file}", passwordFile, "{virt-viewer-file}", virtViewerFile)
	args = make([]string, len(v.args))
	for i, a := range v.args {
		args[i] = r.Replace(a)
	}
	return args, files, nil
}

// nameless is a file in memory that only this user can open, by its descriptor.
func nameless(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("uvbond", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	err = f.Chmod(0o600)
	if err == nil {
		_, err = f.Write(content)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// viewerGrace is how long a viewer that was told to end may take for it, and how long
// the port is kept for the last of what a viewer that has ended sent.
const viewerGrace = 2 * time.Second

// serveTo starts a viewer and serves the screen to it until it leaves.
func (a *app) serveTo(ctx context.Context, v *viewer, p *screen.Port, ln net.Listener, name string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	program, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	close(ended) // none is running yet
	p.Invite = func(pw *rfb.Password) {
		at := ln.Addr().(*net.TCPAddr)
		if v.asks() || a.json {
			a.invite(name, at, p, pw)
		}
		args, files, err := v.fill(at, name, pw)
		if err != nil {
			cancel(err)
			return
		}
		defer closeAll(files)
		cmd := exec.CommandContext(program, v.path, args...)
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = a.err, a.err, files
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = viewerGrace
		if err := cmd.Start(); err != nil {
			cancel(fail.Wrap(err, fail.Other, "see: uvbond vm screen --help", "cannot start the viewer"))
			return
		}
		ended = make(chan struct{})
		go func() {
			defer close(ended)
			// One that hands over to another program and ends well is waited for.
			if err := cmd.Wait(); err != nil && program.Err() == nil {
				select {
				case <-program.Done():
				case <-time.After(viewerGrace):
				}
				cancel(fail.Wrap(err, fail.Other, "try it by hand: uvbond vm screen "+name, "the viewer %s failed", filepath.Base(v.path)))
			}
		}()
	}
	err := p.Serve(ctx, ln)
	if err == nil { // it has left, and may have something to finish
		select {
		case <-ended:
		case <-ctx.Done():
		case <-time.After(viewerGrace):
		}
	}
	stop()
	<-ended
	return err
}
