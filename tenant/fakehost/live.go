package fakehost

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
)

const launchArguments = `{"disks":[{"fd-index":0,"name":"root"}]}`

// hypercalls are what the fake says that a command issues.
var hypercalls = map[string][]string{
	"start": {qmp.CmdLaunch, qmp.CmdCont, qmp.CmdQueryStatus}, "status": {qmp.CmdQueryStatus},
	"pause": {qmp.CmdStop, qmp.CmdQueryStatus}, "resume": {qmp.CmdCont, qmp.CmdQueryStatus},
	"reset": {qmp.CmdSystemReset, qmp.CmdQueryStatus}, "shutdown": {qmp.CmdSystemPowerdown, qmp.CmdQueryStatus, qmp.CmdQueryStatus},
	"poweroff": {qmp.CmdQuit, qmp.CmdQueryStatus},
}

// callsOf are the calls of a receipt.
func callsOf(command string) []bond.Call {
	var out []bond.Call
	for _, name := range hypercalls[command] {
		c := bond.Call{Command: name, Verdict: bond.CallOK}
		if name == qmp.CmdLaunch {
			c.Arguments = launchArguments
		}
		out = append(out, c)
	}
	if out == nil {
		out = []bond.Call{{Command: qmp.CmdQueryStatus, Verdict: bond.CallOK}}
	}
	return out
}

func live(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/live") }

// outcomeOf is the answer to a command in the form that was asked for.
func outcomeOf(r *http.Request, out *client.Outcome) any {
	if live(r) {
		return map[string]any{"result": out}
	}
	return out
}

// tellHypercalls writes a line for each hypercall, sent and answered. Step, when
// set, is called in between.
func (s *Server) tellHypercalls(w http.ResponseWriter, command string) {
	for _, name := range hypercalls[command] {
		h := client.Hypercall{Command: name}
		if name == qmp.CmdLaunch {
			h.Arguments = json.RawMessage(launchArguments)
		}
		for range 2 {
			answer(w, map[string]any{"hypercall": h})
			_ = http.NewResponseController(w).Flush() // a recorder cannot, and need not
			h.Answered = true
		}
		if s.Step != nil {
			s.Step(name)
		}
	}
}
