package keeper

import (
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
		}
	}
	os.Exit(m.Run())
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
