package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Result is what a command printed and how it ended.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Code           int
}

// String shows a result for a failed test.
func (r Result) String() string {
	return fmt.Sprintf("%s: exit %d\n%s%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Tenant is a user of the cloud with a home folder of its own.
type Tenant struct {
	Name string
	Home string
	lab  *Lab
	uid  int
}

// Tenant creates a tenant: a folder, and a token that the server's
// administrator made out for it. n tells tenants' uids apart.
func (l *Lab) Tenant(ctx context.Context, name string, n int) (*Tenant, error) {
	t := &Tenant{Name: name, Home: filepath.Join(l.Dir, "tenants", name), lab: l, uid: TenantUID + n}
	if err := os.MkdirAll(t.Home, 0o700); err != nil {
		return nil, err
	}
	r, err := l.Server(ctx, "token", "create", name)
	if err != nil {
		return nil, err
	}
	if r.Code != 0 {
		return nil, errors.New(r.String())
	}
	token := ""
	for _, f := range strings.Fields(r.Stdout) {
		if strings.HasPrefix(f, "uvb_") {
			token = f
		}
	}
	if token == "" {
		return nil, fmt.Errorf("no token in: %s", r)
	}
	if err := t.Write("token", []byte(token+"\n")); err != nil {
		return nil, err
	}
	return t, t.own(t.Home)
}

// Write puts a file into the tenant's home.
func (t *Tenant) Write(name string, data []byte) error {
	path := filepath.Join(t.Home, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return t.own(path)
}

// Take copies a file into the tenant's home.
func (t *Tenant) Take(from, name string) error {
	path := filepath.Join(t.Home, name)
	if err := copyFile(from, path, 0o600); err != nil {
		return err
	}
	return t.own(path)
}

func (t *Tenant) own(path string) error {
	if !t.lab.Separated {
		return nil
	}
	return os.Chown(path, t.uid, t.uid)
}

// Run runs uvbond as the tenant.
func (t *Tenant) Run(ctx context.Context, args ...string) (Result, error) {
	cmd := t.Command(ctx, args...)
	return finish(cmd, append([]string{"uvbond"}, args...))
}

// Command prepares uvbond as the tenant, for a test that wants to interfere.
func (t *Tenant) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := t.lab.command(ctx, t.uid, t.lab.Bin("uvbond"), args...)
	cmd.Dir = t.Home
	cmd.Env = append(cmd.Env, "HOME="+t.Home, "UVBOND_HOME="+filepath.Join(t.Home, ".uvbond"))
	return cmd
}

// Program prepares another program as the tenant, who has a name and a home folder in
// its /etc/passwd: ssh asks there.
func (t *Tenant) Program(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	cmd := t.lab.command(ctx, -1, name, args...)
	if t.lab.Separated {
		passwd := filepath.Join(t.Home, ".passwd")
		text := fmt.Sprintf("root:x:0:0::/root:/bin/sh\n%s:x:%d:%[2]d::%s:/bin/sh\n", t.Name, t.uid, t.Home)
		if err := t.Write(".passwd", []byte(text)); err != nil {
			return nil, err
		}
		if err := os.Chmod(passwd, 0o644); err != nil {
			return nil, err
		}
		// In a mount namespace of its own, so that this machine's file stays as it is.
		const script = `mount --bind "$0" /etc/passwd && uid=$1 && shift && exec setpriv --reuid="$uid" --regid="$uid" --clear-groups -- "$@"`
		wrapped := []string{"--mount", "--propagation", "private", "sh", "-c", script, passwd, fmt.Sprint(t.uid), name}
		cmd = t.lab.command(ctx, -1, "unshare", append(wrapped, args...)...)
	}
	cmd.Dir = t.Home
	cmd.Env = append(cmd.Env, "HOME="+t.Home, "UVBOND_HOME="+filepath.Join(t.Home, ".uvbond"))
	return cmd, nil
}

// RunProgram runs another program as the tenant.
func (t *Tenant) RunProgram(ctx context.Context, name string, args ...string) (Result, error) {
	cmd, err := t.Program(ctx, name, args...)
	if err != nil {
		return Result{}, err
	}
	return finish(cmd, append([]string{name}, args...))
}

// Server runs a command of uvbond-server as the server's uid: what an operator types.
func (l *Lab) Server(ctx context.Context, args ...string) (Result, error) {
	full := append(append([]string{}, args...), "--config", filepath.Join(l.Dir, "server", "server.toml"))
	cmd := l.command(ctx, ServerUID, l.Bin("uvbond-server"), full...)
	cmd.Env = append(cmd.Env, "HOME="+filepath.Join(l.Dir, "server"))
	return finish(cmd, append([]string{"uvbond-server"}, args...))
}

func finish(cmd *exec.Cmd, args []string) (Result, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := Result{Args: args, Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}
