package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is a running server.
type peer struct {
	name   string
	socket string
	cmd    *exec.Cmd
	done   chan error
	log    string
}

// start runs a server in the background and waits until its socket is there.
func start(o *options, name string, env []string, argv ...string) (*peer, error) {
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, fmt.Errorf("%w (hack/install-deps.sh all)", err)
	}
	p := &peer{name: name, done: make(chan error, 1), log: filepath.Join(o.dir, strings.ReplaceAll(name, " ", "-")+".log")}
	p.socket = filepath.Join(o.dir, strings.ReplaceAll(name, " ", "-")+".sock")
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], "SOCKET", p.socket)
	}
	f, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	for range 200 {
		if c, err := net.Dial("unix", p.socket); err == nil {
			c.Close()
			return p, nil
		}
		select {
		case err := <-p.done:
			p.done <- err
			log, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s ended: %v\n%s", name, err, log)
		case <-time.After(50 * time.Millisecond):
		}
	}
	p.stop()
	return nil, fmt.Errorf("%s does not listen", name)
}

func (p *peer) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// cpu returns the seconds of processor time that p has used.
func (p *peer) cpu() (float64, error) { return cpuOf(p.cmd.Process.Pid) }

func cpuOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 13 {
		return 0, errors.New("unexpected /proc/PID/stat")
	}
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100, errors.Join(err1, err2)
}

// output runs a tool to its end.
func output(ctx context.Context, argv ...string) ([]byte, error) {
	b, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, exit.Stderr)
	}
	return b, err
}
