// Package lab sets up UVBond's three domains on one machine for the demo and
// the end-to-end tests: the hypervisor daemon, the management server, the
// operator's proxy before it, and tenants. As root, hypervisor, server and
// tenants have different uids; without root all share one and Separated is
// false. Close leaves nothing running and nothing behind.
package lab

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Uids of the lab's domains when it runs as root. They are in no passwd file.
const (
	ServerUID = 590001
	TenantUID = 590002
	vmUIDBase = 590100
)

// Options says where the lab takes its programs from.
type Options struct {
	Bin      string    // folder with the three programs
	Operator []string  // command line that runs OperatorMain
	Log      io.Writer // what daemon and server log; nil: kept in files only
	Config   string    // further lines for the hypervisor's configuration
	Server   string    // the same for the server's
	Data     string    // the server's data directory, made if need be; "": below the lab's
	QEMU     string    // program to run as QEMU, copied; "": the installed one
}

// Lab is a running set of domains.
type Lab struct {
	Dir       string // everything but sockets
	Run       string // sockets, on a tmpfs where there is one
	Gate      string // path of the gate's socket
	URL       string // what tenants know: the operator's proxy
	Separated bool   // the domains have different uids

	ServerGate string // what the server takes for the gate; "" is the gate itself

	opts       Options
	hypervisor *process
	server     *process
	operator   *process
	serverPort int
	control    *http.Client
}

// process is a program of the lab in the background.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error
}

// New starts all domains. The caller closes the lab, also when the context ends.
func New(ctx context.Context, o Options) (*Lab, error) {
	l := &Lab{opts: o, Separated: os.Geteuid() == 0}
	if err := l.folders(); err != nil {
		l.Close()
		return nil, err
	}
	for _, step := range []func(context.Context) error{l.StartHypervisor, l.StartServer, l.startOperator} {
		if err := step(ctx); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// folders makes the lab's folders, each owned by its domain.
func (l *Lab) folders() (err error) {
	if l.Dir, err = os.MkdirTemp("", "uvbond-lab-"); err != nil {
		return err
	}
	runRoot := ""
	if l.Separated {
		if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
			runRoot = "/dev/shm"
		}
	}
	if l.Run, err = os.MkdirTemp(runRoot, "uvlab-"); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
		uid  int
	}{
		{l.Dir, 0o711, 0}, {l.Run, 0o711, 0}, {filepath.Join(l.Dir, "bin"), 0o755, 0},
		{filepath.Join(l.Dir, "hypervisor"), 0o700, 0}, {filepath.Join(l.Dir, "server"), 0o700, ServerUID},
		{filepath.Join(l.Dir, "tenants"), 0o711, 0}, {filepath.Join(l.Run, "op"), 0o711, ServerUID}, {l.data(), 0o700, ServerUID},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return err
		}
		if l.Separated && d.uid != 0 {
			if err := os.Chown(d.path, d.uid, d.uid); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"uvbond", "uvbond-server", "uvbond-hypervisor"} {
		if err := CopyProgram(filepath.Join(l.opts.Bin, name), filepath.Join(l.Dir, "bin", name)); err != nil {
			return fmt.Errorf("%w (run `make build` first)", err)
		}
	}
	op := filepath.Join(l.Dir, "bin", "operator")
	if err := CopyProgram(l.opts.Operator[0], op); err != nil {
		return err
	}
	if q := l.opts.QEMU; q != "" {
		if err := CopyProgram(q, l.Bin(filepath.Base(q))); err != nil {
			return err
		}
		l.opts.Config += fmt.Sprintf("\nqemu = %q\n", l.Bin(filepath.Base(q)))
	}
	l.Gate = filepath.Join(l.Run, "gate", "gate.sock")
	return nil
}

func (l *Lab) data() string { return cmp.Or(l.opts.Data, filepath.Join(l.Dir, "server", "data")) }

// StartHypervisor starts the daemon and waits for its gate.
func (l *Lab) StartHypervisor(ctx context.Context) error {
	conf := filepath.Join(l.Dir, "hypervisor", "hypervisor.toml")
	users := fmt.Sprintf("%d", ServerUID)
	if !l.Separated {
		users = fmt.Sprint(os.Geteuid())
	}
	text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\ngate = %q\ngate_users = [%q]\nuid_base = %d\n%s\n",
		filepath.Join(l.Dir, "hypervisor", "state"), filepath.Join(l.Run, "hv"), l.Gate, users, vmUIDBase, l.opts.Config)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	var err error
	l.hypervisor, err = l.start("hypervisor", -1, l.Bin("uvbond-hypervisor"), "serve", "--config", conf)
	if err != nil {
		return err
	}
	return l.wait(ctx, l.hypervisor, func() bool {
		c, err := net.Dial("unix", l.Gate)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// StartServer starts the management server and waits until it answers. A
// restarted server keeps its port.
func (l *Lab) StartServer(ctx context.Context) error {
	if l.serverPort == 0 {
		l.serverPort = freePort()
	}
	conf := filepath.Join(l.Dir, "server", "server.toml")
	text := fmt.Sprintf("listen = \"127.0.0.1:%d\"\ndata_dir = %q\ngate = %q\n%s\n",
		l.serverPort, l.data(), cmp.Or(l.ServerGate, l.Gate), l.opts.Server)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	var err error
	if l.server, err = l.start("server", ServerUID, l.Bin("uvbond-server"), "serve", "--config", conf); err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	return l.wait(ctx, l.server, func() bool {
		r, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/healthz", l.serverPort))
		if err != nil {
			return false
		}
		r.Body.Close()
		return true
	})
}

// startOperator starts the operator's proxy as the server's uid.
func (l *Lab) startOperator(ctx context.Context) error {
	port := freePort()
	sock := filepath.Join(l.Run, "op", "control.sock")
	conf, err := json.Marshal(OperatorConfig{
		Listen: fmt.Sprintf("127.0.0.1:%d", port), Backend: fmt.Sprintf("127.0.0.1:%d", l.serverPort),
		DataDir: l.data(), Gate: l.Gate, Control: sock,
	})
	if err != nil {
		return err
	}
	args := append(append([]string{}, l.opts.Operator[1:]...), string(conf))
	if l.operator, err = l.start("operator", ServerUID, l.Bin("operator"), args...); err != nil {
		return err
	}
	l.URL = fmt.Sprintf("https://127.0.0.1:%d", port)
	l.control = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}
	return l.wait(ctx, l.operator, func() bool {
		c, err := net.Dial("unix", sock)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// Operator has the operator try something and returns what came of it.
func (l *Lab) Operator(ctx context.Context, what Attack) (Outcome, error) {
	var out Outcome
	b, err := json.Marshal(what)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://operator/attack", bytes.NewReader(b))
	if err != nil {
		return out, err
	}
	resp, err := l.control.Do(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return out, errors.New(strings.TrimSpace(string(msg)))
	}
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// Bin is the path of one of the lab's programs.
func (l *Lab) Bin(name string) string { return filepath.Join(l.Dir, "bin", name) }

// start runs a program in the background; uid -1 is the lab's own.
func (l *Lab) start(name string, uid int, program string, args ...string) (*process, error) {
	logFile, err := os.OpenFile(filepath.Join(l.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := l.command(context.Background(), uid, program, args...)
	cmd.Env = append(cmd.Env, "HOME="+filepath.Join(l.Dir, name))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if l.opts.Log != nil {
		w := io.MultiWriter(logFile, l.opts.Log)
		cmd.Stdout, cmd.Stderr = w, w
	}
	if err := cmd.Start(); err != nil {
		logFile.Close()
		return nil, err
	}
	p := &process{name: name, cmd: cmd, log: logFile, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		logFile.Close()
		close(p.done)
	}()
	return p, nil
}

// ServerCommand prepares one of the three programs to run as the server's uid.
func (l *Lab) ServerCommand(ctx context.Context, program string, args ...string) *exec.Cmd {
	return l.command(ctx, ServerUID, l.Bin(program), args...)
}

// command prepares a program for a uid, in a process group of its own and with
// an environment that says nothing of the caller's.
func (l *Lab) command(ctx context.Context, uid int, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = l.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	if l.Separated && uid >= 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	return cmd
}

func (l *Lab) wait(ctx context.Context, p *process, ready func() bool) error {
	deadline := time.After(20 * time.Second)
	for !ready() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.name, p.err, l.Log(p.name))
		case <-deadline:
			return fmt.Errorf("%s does not answer after 20 s\n%s", p.name, l.Log(p.name))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Log returns the last of what a domain ("hypervisor", "server", "operator") logged.
func (l *Lab) Log(name string) string {
	b, err := os.ReadFile(filepath.Join(l.Dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	if len(b) > 8192 {
		b = b[len(b)-8192:]
	}
	return string(b)
}

// HypervisorPID is the daemon's process number.
func (l *Lab) HypervisorPID() int { return l.hypervisor.cmd.Process.Pid }

// KillHypervisor kills the daemon as a power cut would; VMs run on.
func (l *Lab) KillHypervisor() { l.hypervisor.end(syscall.SIGKILL) }

// StopServer ends the server, at once or in order.
func (l *Lab) StopServer(sig syscall.Signal) { l.server.end(sig) }

// end signals a process and waits for it; after 10 s it is killed.
func (p *process) end(sig syscall.Signal) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Close ends every domain and every VM, and removes the lab's folders.
func (l *Lab) Close() error {
	l.operator.end(syscall.SIGTERM)
	l.server.end(syscall.SIGTERM)
	l.hypervisor.end(syscall.SIGTERM)
	left := l.killLeftovers()
	for _, d := range []string{l.Run, l.Dir} {
		if d != "" {
			if err := os.RemoveAll(d); err != nil {
				return err
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes were left and have been killed: %s", strings.Join(left, ", "))
	}
	return nil
}

// Leftovers names processes of the lab's VMs: QEMUs and keepers.
func (l *Lab) Leftovers() []string {
	var out []string
	for pid, name := range l.vmProcesses() {
		out = append(out, fmt.Sprintf("%s (%d)", name, pid))
	}
	return out
}

// vmProcesses finds QEMUs and keepers by a path of the lab in what they run or
// were told; the lab's folders have names of their own.
func (l *Lab) vmProcesses() map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(d), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		exe, _ := os.Readlink(d + "/exe")
		cmdline, _ := os.ReadFile(d + "/cmdline")
		mounts, _ := os.ReadFile(d + "/mountinfo")
		ours := strings.Contains(exe, l.Dir) || bytes.Contains(cmdline, []byte(l.Run)) || (strings.Contains(exe, "qemu-system") && bytes.Contains(mounts, []byte(filepath.Base(l.Run))))
		if ours && l.Run != "" {
			found[pid] = filepath.Base(exe)
		}
	}
	return found
}

func (l *Lab) killLeftovers() []string {
	left := l.Leftovers()
	for pid := range l.vmProcesses() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for range 100 {
		if len(l.vmProcesses()) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// CopyProgram copies a file that is executed afterwards. No process is started meanwhile:
// until it executes its own program, a child has everything open that its parent has, and a
// program that somebody has open for writing cannot be executed ("text file busy").
func CopyProgram(from, to string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return copyFile(from, to, 0o755)
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
