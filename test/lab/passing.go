package lab

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// PassedArg is the first argument with which a program that calls PassedMain
// is started by the operator, on a connection passed to it.
const PassedArg = "passed-connection"

func asQMP(err error) (*qmp.Error, bool) {
	var q *qmp.Error
	ok := errors.As(err, &q)
	return q, ok
}

// passConnection opens a session with the newest ticket, then lets a child
// process send the hypercall on the same connection.
func (o *operator) passConnection(ctx context.Context, a Attack) Outcome {
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: o.conf.Gate, Net: "unix"})
	if err != nil {
		return outcome(nil, err)
	}
	defer raw.Close()
	c, err := qmp.NewClient(ctx, qmp.NewConn(raw))
	if err != nil {
		return outcome(nil, err)
	}
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: a.VM, Ticket: o.newestTicket()}, nil); err != nil {
		return outcome(nil, err)
	}
	f, err := raw.File()
	if err != nil {
		return outcome(nil, err)
	}
	defer f.Close()
	// The child only writes; its answer comes to the client here, which
	// reads it as an answer to nothing it asked, so it asks once more itself.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", PassedArg, a.Command)
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Run(); err != nil {
		return outcome(nil, err)
	}
	return execute(ctx, c, a)
}

// PassedMain is the child: it writes one hypercall on the connection that it inherited.
func PassedMain(command string) int {
	f := os.NewFile(3, "gate")
	b, err := json.Marshal(map[string]any{"execute": command, "id": 1})
	if err != nil {
		return 1
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		return 1
	}
	time.Sleep(200 * time.Millisecond)
	return 0
}
