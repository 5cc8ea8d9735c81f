package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
)

// clockTolerance is how far the gate's clock may be from this one before
// doctor speaks of it: tickets carry times.
const clockTolerance = 30 * time.Second

// check is one line of doctor.
type check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "ok", "note" or "missing"
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func ok(format string, args ...any) check {
	return check{State: "ok", Detail: fmt.Sprintf(format, args...)}
}
func note(fix, format string, args ...any) check {
	return check{State: "note", Detail: fmt.Sprintf(format, args...), Fix: fix}
}
func missing(fix, format string, args ...any) check {
	return check{State: "missing", Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what is missing and how to mend it", Args: exactly(0),
		Long:    "Checks what the server needs: data directory, room, TLS files, port and gate. Changes nothing\nbut a temporary file in the data directory. Exit code 1 when something is missing.",
		Example: "  uvbond-server doctor\n  uvbond-server doctor --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := a.examine(cmd.Context())
			bad := 0
			for _, c := range checks {
				if c.State == "missing" {
					bad++
				}
			}
			if a.json {
				if err := a.print(map[string]any{"checks": checks, "missing": bad}); err != nil || bad == 0 {
					return err
				}
				return &codeError{errSilent, exitError}
			}
			for _, c := range checks {
				fmt.Fprintf(a.out, "%-8s %-15s %s\n", c.State, c.Name, c.Detail)
				if c.Fix != "" {
					fmt.Fprintf(a.out, "%24s %s\n", "mend:", c.Fix)
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d things are missing", bad, len(checks))
			}
			return nil
		},
	}
}

// errSilent ends the program without another message.
var errSilent = errors.New("")

func (a *app) examine(ctx context.Context) []check {
	cfg, err := a.config()
	if err != nil {
		return []check{named("configuration", missing("edit "+a.configFile()+"; docs/server.md has every key", "%v", err))}
	}
	// As root: what the server will meet is looked at with the server's rights.
	asRoot := os.Geteuid() == 0
	if err := becomeOwner(cfg.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []check{named("user", missing("run it as the server's user", "%v", err))}
	}
	path := cfg.Path()
	if path == "" {
		path = "defaults, no file"
	}
	running := serverRuns(cfg)
	checks := []check{
		named("configuration", ok("%s", path)),
		named("user", user(cfg, asRoot)),
		named("data directory", dataDir(cfg)),
		named("free space", freeSpace(cfg)),
		named("database", database(ctx, cfg)),
		named("TLS files", tlsFiles(cfg)),
		named("port", port(cfg, running)),
		named("gate", gateAnswers(ctx, cfg)),
	}
	if cfg.Bases.Storage != "" {
		checks = append(checks, named("bases.exports", exportMaker(cfg)))
	}
	return checks
}

// exportMaker looks at the program that makes exports. It is not run.
func exportMaker(cfg *config.Config) check {
	if cfg.Bases.Exports == "" {
		return note("set bases.exports, unless the storage makes exports when it is asked for them", "nobody makes exports for new disks on %s", cfg.Bases.Storage)
	}
	if err := unix.Access(cfg.Bases.Exports, unix.X_OK); err != nil {
		return missing("chmod +x "+cfg.Bases.Exports+", or correct bases.exports", "%s cannot be run by this user: %v", cfg.Bases.Exports, err)
	}
	return ok("%s makes exports for new disks on %s", cfg.Bases.Exports, cfg.Bases.Storage)
}

func (a *app) configFile() string {
	if a.configPath != "" {
		return a.configPath
	}
	return config.DefaultPath
}

func named(name string, c check) check { c.Name = name; return c }

func user(cfg *config.Config, asRoot bool) check {
	switch {
	case os.Geteuid() != 0 && asRoot:
		return ok("uid %d, the data directory's owner; root becomes that for every command but serve", os.Geteuid())
	case os.Geteuid() != 0:
		return ok("uid %d", os.Geteuid())
	}
	return note("adduser --system --group uvbond-server && chown -R uvbond-server: "+cfg.DataDir,
		"root; the server needs no privilege and should have a user of its own")
}

func dataDir(cfg *config.Config) check {
	fix := fmt.Sprintf("install -d -m 700 -o uvbond-server -g uvbond-server %s", cfg.DataDir)
	info, err := os.Stat(cfg.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing(fix, "%s does not exist", cfg.DataDir)
	case err != nil:
		return missing(fix, "%v", err)
	case !info.IsDir():
		return missing("remove it, then "+fix, "%s is not a directory", cfg.DataDir)
	}
	f, err := os.CreateTemp(cfg.DataDir, ".doctor-*")
	if err != nil {
		return missing(fmt.Sprintf("chown %d %s", os.Geteuid(), cfg.DataDir), "%s is not writable: %v", cfg.DataDir, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return missing(fix, "%v", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return note("chmod 700 "+cfg.DataDir, "%s is writable, but open to others (mode %o)", cfg.DataDir, info.Mode().Perm())
	}
	return ok("%s is writable", cfg.DataDir)
}

func freeSpace(cfg *config.Config) check {
	var st unix.Statfs_t
	if err := unix.Statfs(cfg.DataDir, &st); err != nil {
		return missing("create the data directory", "cannot tell: %v", err)
	}
	free := config.Size(int64(st.Bavail) * st.Bsize) //nolint:gosec // a file system's size fits
	if free <= cfg.Limits.FreeSpace {
		return missing("make room on the file system of "+cfg.DataDir, "%v free, no more than the %v that are kept", free, cfg.Limits.FreeSpace)
	}
	return ok("%v free", free)
}

func database(ctx context.Context, cfg *config.Config) check {
	if _, err := os.Stat(cfg.Database()); errors.Is(err, fs.ErrNotExist) {
		return ok("none yet, made on the first start")
	}
	st, err := store.Open(ctx, cfg.Database())
	if err != nil {
		return missing("stop the server and restore "+cfg.Database()+" from a backup, or install the newer uvbond-server", "%v", err)
	}
	defer st.Close()
	tenants, err := st.Tenants(ctx)
	if err != nil {
		return missing("restore it from a backup", "%v", err)
	}
	if len(tenants) == 0 {
		return note("uvbond-server token create TENANT", "%s works; there is no tenant yet", cfg.Database())
	}
	return ok("%s works, %d tenant(s)", cfg.Database(), len(tenants))
}

func tlsFiles(cfg *config.Config) check {
	cert, key := cfg.CertFiles()
	_, certErr := os.Stat(cert)
	info, keyErr := os.Stat(key)
	if cfg.TLS.Cert == "" && errors.Is(certErr, fs.ErrNotExist) {
		return ok("none yet, made on the first start in %s", filepath.Dir(cert))
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return missing("restore both files from a backup", "%v", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return missing("chmod 600 "+key, "%s can be read by others", key)
	}
	c, err := server.LoadCertificate(cfg)
	if err != nil {
		return missing("restore both files from a backup", "%v", err)
	}
	if left := time.Until(c.Leaf.NotAfter); left < 30*24*time.Hour {
		return note("replace "+cert, "the certificate ends on %s", c.Leaf.NotAfter.Format(time.DateOnly))
	}
	return ok("%s, key %s", cert, c.Fingerprint())
}

func serverRuns(cfg *config.Config) bool {
	f, err := os.Open(filepath.Join(cfg.DataDir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func port(cfg *config.Config, running bool) check {
	if running {
		return ok("%s; the server is running", cfg.Listen)
	}
	l, err := net.Listen("tcp", cfg.Listen)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return missing("ss -ltnp shows who has it; stop that or set listen", "%s is taken by another program", cfg.Listen)
	case err != nil:
		return missing("set listen to an address of this machine and a port above 1023", "%v", err)
	}
	l.Close()
	return ok("%s is free; the server is not running", cfg.Listen)
}

func gateAnswers(ctx context.Context, cfg *config.Config) check {
	h, err := server.NewGate(cfg, cfg.Log.Logger(os.Stderr)).QueryHost(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing("systemctl start uvbond-hypervisor, or set gate to its socket", "%s does not exist", cfg.Gate)
	case errors.Is(err, fs.ErrPermission), err != nil && isReset(err), qmp.ClassOf(err) == qmp.ClassDenied:
		return missing(fmt.Sprintf("add uid %d to gate_users in hypervisor.toml and restart uvbond-hypervisor", os.Geteuid()), "the gate does not admit uid %d: %v", os.Geteuid(), err)
	case err != nil:
		return missing("systemctl restart uvbond-hypervisor; journalctl -u uvbond-hypervisor has the reason", "%v", err)
	}
	if diff := time.Since(time.Unix(h.Time, 0)).Round(time.Second); diff > clockTolerance || diff < -clockTolerance {
		return note("set both clocks by NTP", "answers, but its clock is %v away from this one", diff)
	}
	return ok("%s answers: hypervisor %s, %s", cfg.Gate, h.Hypervisor, h.Accel)
}

// isReset tells a gate that closed the connection at once: it does not admit
// this user.
func isReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
