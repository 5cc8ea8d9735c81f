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
