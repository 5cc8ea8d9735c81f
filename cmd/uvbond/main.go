// Command uvbond is the client of the owner of VMs: it encrypts disks, pins
// hypervisors, binds VMs to their owner, and commands them. See docs/cli.md.
package main

import (
	"os"

	"github.com/uvbond/uvbond/tenant/cli"
)

func main() { os.Exit(cli.Main()) }
