// Command attack owns the management domain and tries: its uid, its sockets, its
// files, the server's code and every message that ever passed. Each attempt has
// a verdict that must come, worked out beside the gate (oracle.go, floor.go and
// model.go share no code with it); the run ends with a table and fails unless
// wrong is 0, the daemon is alive, every refusal is in the right audit log, and
// the VM of a tenant who has no part in it is undisturbed.
//
// The daemon is the real one, run as root with real keepers; QEMU is a stub that
// runs no guest, but where its own commands are tried. The attackers are
// processes with the server's uid. docs/attacks.md says what is tried.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/test/lab"
)

// roleOperator is the role of the proxy between tenants and server: see lab.
const roleOperator = "operator"

const usage = `attack owns the management domain of a host of its own making, and tries.

Usage:
  attack [-kind KIND,...] [-sample] [-seed N] [-bin FOLDER] [-json] [-v]
  attack -list

Flags:
`

const examples = `
Examples:
  attack -kind sequences,processes -v
  attack -sample -json

Exit codes: 0 nothing is wrong, 1 something is or the run failed, 2 wrong usage,
130 interrupted.
`

func main() {
	if code, ok := role(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// role runs what this program is when it was started by itself.
func role(args []string) (code int, ok bool) {
	switch {
	case isStub(args[0]):
		return machinetest.StubMain(), true
	case filepath.Base(args[0]) == daemonName:
		return daemonMain(), true
	case len(args) < 3:
		return 0, false
	}
	var err error
	switch args[1] {
	case roleOperator:
		return lab.OperatorMain(args[2]), true
	case lab.PassedArg:
		return lab.PassedMain(args[2]), true
	case roleAttacker:
		return attackerMain(args[2]), true
	case roleChild:
		err = childMain(args[2])
	case rolePassed:
		err = passedMain(args[2])
	case roleExec:
		err = execMain(args[2])
	case roleExecded:
		err = execdedMain(args[2], args[3])
	case roleOnce:
		err = onceMain(args[2])
	case roleReuse:
		err = reuseMain(args[2])
	case roleReach:
		err = reachMain(args[2])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// limit is how long a run may take before it gives up.
const limit = 15 * time.Minute

// settings are the flags.
type settings struct {
	kinds        string
	list, sample bool
	seed         int64
	bin          string
	json         bool
	verbose      bool
}

func parse(args []string, errs io.Writer) (*settings, error) {
	s := &settings{}
	fs := flag.NewFlagSet("attack", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.StringVar(&s.kinds, "kind", "", "kinds to try, with commas between them (all)")
	fs.BoolVar(&s.list, "list", false, "list the kinds")
	fs.BoolVar(&s.sample, "sample", false, "a sample of each kind")
	fs.Int64Var(&s.seed, "seed", 1, "of what is drawn by lot; the same seed tries the same")
	fs.StringVar(&s.bin, "bin", "", "folder with the three programs (beside this one)")
	fs.BoolVar(&s.json, "json", false, "print the result as JSON")
	fs.BoolVar(&s.verbose, "v", false, "name every attempt")
	fs.Usage = func() {
		fmt.Fprint(errs, usage)
		fs.PrintDefaults()
		fmt.Fprint(errs, examples)
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is not understood; attack -help", fs.Arg(0))
	}
	if s.bin == "" {
		own, err := os.Executable()
		if err != nil {
			return nil, err
		}
		s.bin = filepath.Dir(own)
	}
	return s, nil
}

func run(args []string, out, errs io.Writer) int {
	s, err := parse(args, errs)
	if err != nil {
		if err == flag.ErrHelp {
			return 0
		}
		fmt.Fprintln(errs, "attack:", err)
		return 2
	}
	chosen, err := choose(s.kinds)
	if err != nil {
		fmt.Fprintln(errs, "attack:", err)
		return 2
	}
	if s.list {
		for _, k := range chosen {
			fmt.Fprintf(out, "%-14s %s\n", k.name, k.what)
		}
		return 0
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		fmt.Fprintln(errs, "attack: must be root, because the domains are kept apart by their uids")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &report{Seed: s.seed, Sample: s.sample, began: time.Now(), screen: newScreen(errs), verbose: s.verbose}
	err = r.play(ctx, s, chosen)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(errs, "attack: interrupted; nothing was left behind")
		return 130
	case err != nil:
		fmt.Fprintln(errs, "attack:", err)
		return 1
	}
	r.finish()
	if s.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return 1
		}
	} else {
		r.table(out)
	}
	if r.Wrong > 0 {
		return 1
	}
	return 0
}

// choose returns the kinds of a list of names, in their order.
func choose(names string) ([]*kind, error) {
	if names == "" {
		return kinds, nil
	}
	var out []*kind
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, k := range kinds {
			if k.name == name {
				out, found = append(out, k), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no kind is called %q; attack -list", name)
		}
	}
	return out, nil
}
