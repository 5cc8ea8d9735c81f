// Package cli is the command line of uvbond. It puts words, prompts and progress bars
// around package tenant, and decides nothing about trust: a result is printed as
// verified only when package tenant returned a receipt.
//
// Results go to standard output; progress, prompts, notes and errors go to
// standard error. With --json both are JSON.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// Main runs uvbond with the arguments of the process and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once
	}()
	return int(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is one run of uvbond.
type app struct {
	in       *os.File
	out, err io.Writer
	json     bool
	started  bool // arguments were accepted: errors are no longer usage errors
	shown    bool // out is a terminal: what a guest prints may do things there
	colour   bool // of out
	live     bool // err is a terminal: progress bars make sense
	silent   bool // when interrupted: ssh ends its ProxyCommand so
}

func run(ctx context.Context, args []string, in, out, errOut *os.File) fail.Code {
	a := &app{in: in, out: out, err: errOut}
	a.shown = term.IsTerminal(int(out.Fd()))
	a.colour = a.shown && os.Getenv("NO_COLOR") == ""
	a.live = term.IsTerminal(int(errOut.Fd()))
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	c, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started && fail.CodeOf(err) == fail.Other {
		err = usage(c, err)
	}
	return a.fail(ctx, err)
}

func usage(c *cobra.Command, err error) error {
	text, rest, _ := strings.Cut(err.Error(), "\n")
	hint := strings.Join(strings.Fields(rest), " ")
	if hint == "" {
		hint = "see: " + c.CommandPath() + " --help"
	}
	return fail.New(fail.Usage, hint, "%s", text)
}

func exactly(n int) cobra.PositionalArgs { return between(n, n) }

// between is cobra.RangeArgs with a message that names what is missing or too
// much. The names are those of the command's own usage line.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		form := "use: " + strings.TrimSuffix(c.UseLine(), " [flags]")
		if len(args) < least {
			return fail.New(fail.Usage, form, "%s is missing", strings.Fields(c.Use)[1+len(args)])
		}
		if len(args) > most {
			return fail.New(fail.Usage, form, "%q is one argument too many", args[most])
		}
		return nil
	}
}

// fail prints an error and returns the exit code.
func (a *app) fail(ctx context.Context, err error) fail.Code {
	if err == nil {
		return fail.Done
	}
	code, text, hint := fail.CodeOf(err), err.Error(), fail.HintOf(err)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		code = fail.Interrupted
		text = strings.Replace(text, cause.Error(), "interrupted", 1)
	}
	if code == fail.Interrupted && a.silent {
		return code
	}
	if a.json {
		type body struct {
			Class   string `json:"class"`
			Exit    int    `json:"exit"`
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
		}
		enc := json.NewEncoder(escaped{a.err})
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]body{"error": {code.String(), int(code), text, hint}})
		return code
	}
	if code == fail.Forged {
		fmt.Fprintln(a.err, strings.Repeat("@", 72))
	}
	fmt.Fprintf(a.err, "error: %s\n", text)
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", hint)
	}
	if code == fail.Forged {
		fmt.Fprintln(a.err, strings.Repeat("@", 72))
	}
	return code
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "uvbond",
		Short: "Bind virtual machines to their owner",
		Long: `uvbond is the client of the owner of virtual machines. It encrypts their disks,
pins the hypervisor they run on, and commands them so that the management server
in between can neither put another machine in their place nor make them do what
their owner did not ask for.

Exit codes:
  0    done (and where a receipt is due, it was verified)
  1    any other error
  2    wrong command line
  3    refused by the hypervisor (automaton run: by the automaton)
  4    redirected or forged: an answer that is not from your VM
  5    unknown: no receipt came
  6    the server was not reached
  130  interrupted`,
		Example: `  uvbond host add lab https://server.example:8443
  uvbond disk encrypt debian.qcow2 web1.luks
  uvbond vm create web1 --host lab --disk web1.luks --memory 1GiB --cpus 1
  uvbond vm start web1`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			// Cobra would check these after this point.
			if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
				return fail.New(fail.Usage, "see: "+c.CommandPath()+" --help", "%s", err)
			}
			a.started = true
			return nil
		},
	}
	group(c)
	c.PersistentFlags().BoolVar(&a.json, "json", false, "print results (and errors, on standard error) as JSON")
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fail.New(fail.Usage, "see: "+c.CommandPath()+" --help", "%s", err)
	})
	c.AddCommand(a.hostCommand(), a.diskCommand(), a.baseCommand(), a.vmCommand(), a.delegationCommand(), a.identityCommand(), a.receiptCommand(), a.auditCommand(), a.automatonCommand(),
		a.uiCommand(), a.doctorCommand(), a.versionCommand())
	noFiles(c)
	return c
}

// group makes a command that only holds others: alone it prints its help, and a
// word that is none of its commands is a usage error.
func group(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		hint := "see: " + c.CommandPath() + " --help"
		for c.SuggestionsMinimumDistance = 1; c.SuggestionsMinimumDistance <= 2; c.SuggestionsMinimumDistance++ { // the nearest first
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				hint = "did you mean " + c.CommandPath() + " " + s[0] + "?"
				break
			}
		}
		return fail.New(fail.Usage, hint, "%q is not a command of %s", args[0], c.CommandPath())
	}
}

// owner opens the state folder.
func (a *app) owner() (*tenant.Owner, error) {
	dir, err := store.DefaultDir()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(dir)
	if err != nil {
		return nil, err
	}
	return tenant.NewOwner(s), nil
}

// print writes a result: v as JSON, or text.
func (a *app) print(v any, text func(w io.Writer)) error {
	if !a.json {
		text(a.out)
		return nil
	}
	enc := json.NewEncoder(escaped{a.out})
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// note writes a line for the person, not for scripts.
func (a *app) note(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}
