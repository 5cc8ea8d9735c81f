// Package cli is the command line of uvbond-hypervisor. It uses the standard
// library's flag package: every dependency of this program is attack surface.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/uvbond/uvbond/hypervisor"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

const usage = `uvbond-hypervisor is the trusted daemon of UVBond: it alone holds the keys of
bonded VMs, runs their QEMU, and lets in only what their owners authorised.

Usage:
  uvbond-hypervisor serve  [--config FILE]          run the daemon
  uvbond-hypervisor doctor [--config FILE] [--json] what is missing, and the command that mends it
  uvbond-hypervisor fingerprint [--config FILE] [--json]
                                                    the host's identity, to hand to tenants
                                                    (while the daemon is stopped; a running one logs it)
  uvbond-hypervisor completion bash                 shell completion
  uvbond-hypervisor version

Examples:
  uvbond-hypervisor doctor
  uvbond-hypervisor serve --config /etc/uvbond/hypervisor.toml
  source <(uvbond-hypervisor completion bash)

The configuration is ` + hypervisor.DefaultConfigPath + ` unless --config names another.
Exit codes: 0 done, 1 failed or something is missing, 2 wrong usage.
`

const completion = `complete -W "serve doctor fingerprint completion version --config --json --help" uvbond-hypervisor
`

// Main runs the program and returns its exit code. The subcommands keeper and
// confine are for the daemon's own use.
func Main() int {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	switch verb, args := os.Args[1], os.Args[2:]; verb {
	case "keeper":
		return keeper.Main(args)
	case "confine":
		return vm.ConfineMain()
	case "serve":
		return run(verb, args, serve)
	case "doctor":
		return run(verb, args, doctor)
	case "fingerprint":
		return run(verb, args, fingerprint)
	case "completion":
		fmt.Print(completion)
		return exitOK
	case "version", "--version":
		fmt.Println("uvbond-hypervisor", hypervisor.Version)
		return exitOK
	case "help", "-h", "--help":
		fmt.Print(usage)
		return exitOK
	default:
		fmt.Fprintf(os.Stderr, "error: %q is not a command\nhint: uvbond-hypervisor --help lists them\n", verb)
		return exitUsage
	}
}

// run parses the flags that all commands share.
func run(verb string, args []string, f func(hypervisor.Config, bool) error) int {
	fs := flag.NewFlagSet(verb, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	path := fs.String("config", hypervisor.DefaultConfigPath, "configuration file")
	asJSON := fs.Bool("json", false, "answer in JSON")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return exitOK
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("%q is not understood", fs.Arg(0))
		fallthrough
	case err != nil:
		fmt.Fprintf(os.Stderr, "error: %s: %v\nhint: uvbond-hypervisor --help\n", verb, err)
		return exitUsage
	}
	c, err := hypervisor.LoadConfig(*path)
	if err == nil {
		err = f(c, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return exitError
	}
	return exitOK
}

func serve(c hypervisor.Config, _ bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var h slog.Handler = slog.NewTextHandler(os.Stderr, nil)
	if c.LogFormat == "json" {
		h = slog.NewJSONHandler(os.Stderr, nil)
	}
	return hypervisor.Serve(ctx, c, slog.New(h))
}

func fingerprint(c hypervisor.Config, asJSON bool) error {
	id, fp, err := hypervisor.Fingerprint(c)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]string{"host": id, "fingerprint": fp})
	}
	fmt.Println(fp)
	return nil
}

func doctor(c hypervisor.Config, asJSON bool) error {
	findings := hypervisor.Doctor(c)
	missing := 0
	for _, f := range findings {
		if !f.OK {
			missing++
		}
	}
	if asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(findings); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			mark := "ok     "
			if !f.OK {
				mark = "MISSING"
			}
			fmt.Printf("%s  %-20s %s\n", mark, f.Name, f.Detail)
			if !f.OK && f.Fix != "" {
				fmt.Printf("         mend it with: %s\n", f.Fix)
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d checks failed", missing, len(findings))
	}
	return nil
}
