// Command bench measures UVBond's data path, channels, and making a disk against what people use
// instead, all in one run: every peer serves its copy of the same data in memory,
// and they take turns, so that whatever else the machine does befalls all of
// them. It prints medians and spread, and the ratios that the project promises,
// and can write them to docs/benchmarks.md. `make bench` runs it.
//
// It measures and does not judge: a ratio that is missed is shown as such.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// suite is one group of measurements.
type suite struct {
	name string
	run  func(context.Context, *options) (*report, error)
}

var suites = []suite{
	{"nbd", runNBD},
	{"vhost", runVhost},
	{"guest", runGuest},
	{"boot", runBoot},
	{"memory", runMemory},
	{"channel", runChannel},
	{"build", runBuild},
}

// options are those of the command line.
type options struct {
	rounds  int
	seconds float64
	only    string
	output  string
	dir     string // scratch, in memory
}

func main() {
	// The program also is the server that is measured.
	if len(os.Args) > 1 {
		if serve, ok := servers[os.Args[1]]; ok {
			if err := serve(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each measurement is made")
	flag.Float64Var(&o.seconds, "seconds", 2, "how long each takes")
	flag.StringVar(&o.only, "run", "", "only these suites, separated by commas: "+names())
	flag.StringVar(&o.output, "o", "", "write the report to this file too: docs/benchmarks.md keeps what stands above its first figure, and with -run the other suites'")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: bench [flags]\n\nexamples: bench -run nbd -rounds 3\n          bench -run build -o docs/benchmarks.md\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.seconds <= 0 {
		flag.Usage()
		return fmt.Errorf("unknown argument %q", strings.Join(flag.Args(), " "))
	}
	var err error
	if o.dir, err = os.MkdirTemp("/dev/shm", "uvbench-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	began := time.Now()
	var reports []*report
	for _, s := range suites {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.name) {
			continue
		}
		r, err := s.run(ctx, &o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Println(r)
		reports = append(reports, r)
	}
	if len(reports) == 0 {
		return fmt.Errorf("no suite is named %q: there are %s", o.only, names())
	}
	if o.output != "" {
		return write(&o, reports, time.Since(began))
	}
	return nil
}

func names() string {
	var n []string
	for _, s := range suites {
		n = append(n, s.name)
	}
	return strings.Join(n, ", ")
}
