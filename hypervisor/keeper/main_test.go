package keeper

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
)

// The test binary is also the keeper that the tests start, and a client of its
// console under another uid.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keeper":
			os.Exit(Main(os.Args[2:]))
		case "say":
			os.Exit(say(os.Args[2]))
		case "daemon":
			os.Exit(daemon(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// daemon starts a keeper for the VM of a fixture in dir, prints how to find it
// again, and ends.
func daemon(dir string) int {
	x, err := makeFixture(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	x.Stderr = nil // a pipe to the test, which would wait for the keeper
	p, err := Start(context.Background(), x.Options)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.PID(), p.StartTime())
	return 0
}

// say sends its standard input to a unix socket.
func say(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		return 1
	}
	defer c.Close()
	if _, err := io.Copy(c, os.Stdin); err != nil {
		return 1
	}
	return 0
}
