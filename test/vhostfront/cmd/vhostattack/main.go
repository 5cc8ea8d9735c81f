// Command vhostattack attacks a vhost-user-blk back end in every way that
// test/vhostfront knows, and prints what went wrong. The back end must offer two
// queues, and its disk is written to.
//
//	vhostattack -socket /tmp/blk.sock
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/uvbond/uvbond/test/vhostfront"
)

func main() {
	socket := flag.String("socket", "", "the back end's `path`")
	only := flag.String("only", "", "attacks whose names have this `text`")
	flag.Parse()
	total, bad := 0, 0
	for _, c := range vhostfront.Hostile() {
		if !strings.Contains(c.Name, *only) {
			continue
		}
		total++
		if err := c.Run(*socket); err != nil {
			bad++
			fmt.Printf("%s: %v\n", c.Name, err)
		}
	}
	fmt.Printf("%d attacks, %d with another outcome than they should have\n", total, bad)
	if bad > 0 || total == 0 {
		os.Exit(1)
	}
}
