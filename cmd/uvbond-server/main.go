// Command uvbond-server is the management server: API, image store, relay and
// toolstack. It is not trusted with any secret of a tenant.
package main

import (
	"os"

	"github.com/uvbond/uvbond/server/cli"
)

func main() { os.Exit(cli.Main()) }
