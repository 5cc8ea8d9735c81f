// Command demo shows UVBond at work: a tenant boots a real Linux from its own
// encrypted disk and commands it, then the operator of the management server
// tries to take it over. It ends with a table of what was tried and what
// stopped it, and fails unless every line is as it should be.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/test/lab"
)

func main() {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "operator":
			os.Exit(lab.OperatorMain(os.Args[2]))
		case lab.PassedArg:
			os.Exit(lab.PassedMain(os.Args[2]))
		}
	}
	os.Exit(run())
}

// limit is how long the demo may take before it gives up.
const limit = 5 * time.Minute

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	d := &demo{ctx: ctx, bin: filepath.Dir(self), self: self, out: newScreen(os.Stdout), began: time.Now()}
	err = d.play()
	if err != nil && d.lab != nil {
		fmt.Fprintf(os.Stderr, "\nthe hypervisor's log ends with:\n%s\n", tail(d.lab.Log("hypervisor"), 8))
	}
	if cerr := d.close(); err == nil {
		err = cerr
	}
	switch {
	case ctx.Err() != nil && err != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; nothing was left behind")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		return 1
	}
	return d.table()
}
