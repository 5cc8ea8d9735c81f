// Package cli is the command line of uvbond-server: it starts the server and
// gives its operator commands on tenants, tokens and VMs.
//
// It runs in the management domain and holds no secret of a tenant. Operator
// commands on a VM work only as far as the VM's owner allows them.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

// Exit codes, the same as those of uvbond where both have a case.
const (
	exitDone        = 0
	exitError       = 1
	exitUsage       = 2
	exitRefused     = 3   // the gate refused
	exitUnknown     = 5   // the gate went away in the middle
	exitConnection  = 6   // the gate cannot be reached
	exitInterrupted = 130 // by a signal
)

// Version is set by the build (-ldflags -X); without it the module's own
// version is told.
var Version = ""

func version() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

// app is what the commands share.
type app struct {
	configPath string
	json       bool
	out, err   io.Writer
}

// usageError is a wrong command line.
type usageError struct{ error }

// codeError is an error with an exit code of its own.
type codeError struct {
	error
	code int
}

func (e *codeError) Unwrap() error { return e.error }

// Main runs uvbond-server and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	return Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// Run runs one command line.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	code := exitCode(ctx, err)
	switch {
	case errors.Is(err, errSilent):
	case a.json:
		a.print(map[string]any{"error": err.Error(), "exit": code}) //nolint:errcheck // the exit code says it too
	default:
		fmt.Fprintln(stderr, "uvbond-server:", err)
	}
	if code == exitUsage && !a.json {
		fmt.Fprintln(stderr, "see", cmd.CommandPath(), "--help")
	}
	return code
}

func exitCode(ctx context.Context, err error) int {
	var coded *codeError
	var usage *usageError
	var gone *toolstack.UnavailableError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &gone):
		return exitConnection
	case qmp.ClassOf(err) != "":
		return exitRefused
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitError
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "uvbond-server",
		Short: "UVBond's management server and its operator's tools",
		Long: "uvbond-server stores tenants' encrypted disks, relays their sealed messages to the\n" +
			"hypervisor and turns management commands into hypercalls. It is trusted with no secret.",
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error { return &usageError{errors.New("a command is needed")} },
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("no command %q", args[0])}
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVarP(&a.configPath, "config", "c", os.Getenv("UVBOND_SERVER_CONFIG"),
		"configuration file (default "+config.DefaultPath+" when it exists; UVBOND_SERVER_CONFIG)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.serve(), a.token(), a.tenant(), a.image(), a.base(), a.vm(), a.gate(), a.doctor(), a.versionCommand())
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: exactly(0), Example: "  uvbond-server version --json",
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.print(map[string]string{"version": version()})
			}
			_, err := fmt.Fprintln(a.out, "uvbond-server", version())
			return err
		}}
}

// exactly takes n arguments.
func exactly(n int) cobra.PositionalArgs { return between(n, n) }

// between takes so many arguments, and names the one that is missing or too
// much. The names are those of the command's own usage line.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		form := "; use: " + strings.TrimSuffix(cmd.UseLine(), " [flags]")
		switch {
		case len(args) < least:
			return &usageError{errors.New(strings.Fields(cmd.Use)[1+len(args)] + " is missing" + form)}
		case len(args) > most:
			return &usageError{fmt.Errorf("%q is one argument too many%s", args[most], form)}
		}
		return nil
	}
}

// group is a command that only has commands below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{errors.New(needs(cmd))}
		}}
	c.AddCommand(below...)
	return c
}

// needs lists what a group's command may be.
func needs(c *cobra.Command) string {
	var names []string
	for _, b := range c.Commands() {
		names = append(names, b.Name())
	}
	return c.CommandPath() + " needs a command: " + strings.Join(names, ", ")
}

func (a *app) print(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (a *app) config() (*config.Config, error) { return config.Load(a.configPath) }

// open loads the configuration and the records. Run as root it first becomes
// the user who owns the data, so that no file of root's appears among them.
func (a *app) open(ctx context.Context) (*config.Config, *store.Store, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	if err := becomeOwner(cfg.DataDir); err != nil {
		return nil, nil, err
	}
	st, err := store.Open(ctx, cfg.Database())
	return cfg, st, err
}

func becomeOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	err = errors.Join(syscall.Setgroups([]int{int(owner.Gid)}), syscall.Setgid(int(owner.Gid)))
	if err == nil {
		err = syscall.Setuid(int(owner.Uid))
	}
	if err != nil {
		return fmt.Errorf("becoming the data directory's owner: %w", err)
	}
	return nil
}
