// Command uvbond-hypervisor is the trusted daemon; package hypervisor has the description.
package main

import (
	"os"

	"github.com/uvbond/uvbond/hypervisor/cli"
)

func main() { os.Exit(cli.Main()) }
