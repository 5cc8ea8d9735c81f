// Command testkeeper is the keeper alone, for the tests of its confinement and size.
package main

import (
	"os"

	"github.com/uvbond/uvbond/hypervisor/keeper"
)

func main() { os.Exit(keeper.Main(os.Args[1:])) }
