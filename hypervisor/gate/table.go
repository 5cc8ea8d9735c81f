package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/nearest"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
)

// verdict is what the table says of a command before any automaton is asked.
type verdict int

const (
	// outside: belongs to the gate itself; needs no session.
	outside verdict = iota + 1
	// byTicket: passes only when a ticket's automaton accepts it.
	byTicket
	// byPolicy: a ticket's automaton or the owner's policy may accept it.
	byPolicy
	// never: does not pass, whatever a ticket says.
	never
)

// entry is one line of the table. Only verdict and why are set where the
// verdict is never.
type entry struct {
	verdict verdict
	// changes: alters the VM, its disks or its bond. Sessions whose automaton
	// holds such a command exclude each other, and the command is in the audit
	// before it is executed.
	changes bool
	// instance: acts on the running instance, so a ticket must carry that
	// instance's descriptor. A boot ticket counts for the instance it launched.
	instance bool
	// boot: passes only under a boot ticket.
	boot bool
	// args decodes the arguments strictly into a value of a Go type, which is
	// also what automata are held against.
	args arguments
	// rewrite puts what is meant in the place of what was sent: descriptors of
	// open files for their numbers. Nil: the arguments go on as they are. What
	// the automaton and the receipt see is what was sent.
	rewrite func(args any, files *[]*os.File) (any, *qmp.Error)
	// answer lets the listed fields of an answer pass and drops all others.
	answer answer
	// why is the reason for the verdict, for people.
	why string
}

// table has every command that the gate may be asked for: its own, and all of
// QEMU's, those that never pass included (never.go). A test holds it against
// QEMU's schema in both directions. What is in neither is refused all the same.
var table = withRefusals(map[string]entry{
	qmp.CmdCapabilities: {verdict: outside, args: takes[struct {
		Enable []string `json:"enable,omitempty"`
	}](), answer: nothing, why: "handshake of every QMP client"},
	qmp.CmdQueryHost:  {verdict: outside, args: none, answer: gives[qmp.QueryHostResult](), why: "public identity of the host"},
	qmp.CmdRegister:   {verdict: outside, args: takes[qmp.RegisterArgs](), answer: gives[qmp.RegisterResult](), why: "sealed by the tenant; creates a bond of its own"},
	qmp.CmdQueryVMs:   {verdict: outside, args: none, answer: gives[qmp.QueryVMsResult](), why: "run states, which the provider sees anyway"},
	qmp.CmdAttach:     {verdict: outside, args: takes[qmp.AttachArgs](), rewrite: attachFiles, answer: nothing, why: "ciphertext only, compared with the registration"},
	qmp.CmdQueryDisks: {verdict: outside, args: takes[qmp.QueryDisksArgs](), answer: gives[qmp.QueryDisksResult](), why: "counts of accesses, which the storage sees anyway"},
	qmp.CmdSetLimits:  {verdict: outside, args: takes[qmp.SetLimitsArgs](), answer: nothing, why: "the provider can refuse service anyway; in the audit log"},
	qmp.CmdOpen:       {verdict: outside, args: takes[qmp.OpenArgs](), answer: gives[qmp.OpenResult](), why: "begins a session"},
	qmp.CmdClose:      {verdict: outside, args: none, answer: gives[qmp.CloseResult](), why: "ends a session"},

	qmp.CmdQueryStatus:     {verdict: byPolicy, args: none, answer: gives[qmp.StatusResult](), why: "run state only"},
	qmp.CmdStop:            {verdict: byPolicy, changes: true, instance: true, args: none, answer: nothing, why: "pauses the vCPUs"},
	qmp.CmdCont:            {verdict: byPolicy, changes: true, instance: true, args: none, answer: nothing, why: "runs the vCPUs"},
	qmp.CmdSystemReset:     {verdict: byPolicy, changes: true, instance: true, args: none, answer: nothing, why: "hardware reset"},
	qmp.CmdSystemPowerdown: {verdict: byPolicy, changes: true, instance: true, args: none, answer: nothing, why: "ACPI power button"},
	qmp.CmdQuit:            {verdict: byPolicy, changes: true, instance: true, args: none, answer: nothing, why: "ends the instance"},

	qmp.CmdBuild:       {verdict: byTicket, changes: true, args: takes[qmp.BuildArgs](), rewrite: buildFiles, answer: gives[qmp.BuildState](), why: "makes a disk from the base image whose SHA-256 its owner registered"},
	qmp.CmdLaunch:      {verdict: byTicket, changes: true, boot: true, args: takes[qmp.LaunchArgs](), rewrite: launchFiles, answer: nothing, why: "creates an instance from the registration"},
	qmp.CmdReadConsole: {verdict: byTicket, args: takes[qmp.ReadConsoleArgs](), answer: gives[qmp.ChunkResult](), why: "serial output, sealed for the owner"},
	qmp.CmdReadAudit:   {verdict: byTicket, args: takes[qmp.ReadAuditArgs](), answer: gives[qmp.ChunkResult](), why: "audit log, sealed for the owner"},
	qmp.CmdChannel:     {verdict: byTicket, instance: true, args: takes[qmp.ChannelArgs](), answer: gives[qmp.ChannelResult](), why: "a stream that only the owner can open, sealed end to end; the provider carries it"},
	qmp.CmdSetPolicy:   {verdict: byTicket, changes: true, args: none, answer: nothing, why: "the policy travels inside the ticket"},
	qmp.CmdGrow:        {verdict: byTicket, changes: true, args: takes[qmp.GrowArgs](), rewrite: growFile, answer: gives[qmp.GrowResult](), why: "the owner says how long a disk is"},
	qmp.CmdRevoke:      {verdict: byTicket, args: takes[qmp.RevokeArgs](), answer: nothing, why: "takes delegations back; the ticket's automaton says which"},
	qmp.CmdDelete:      {verdict: byTicket, changes: true, args: none, answer: nothing, why: "ends the bond"},
})

// arguments is the type of a command's arguments and how they are decoded.
type arguments struct {
	typ    *schema.Type
	decode func(*qmp.Request) (any, error)
}

// none accepts no arguments.
var none = arguments{schema.Nothing(), func(req *qmp.Request) (any, error) {
	for k := range req.Arguments {
		return nil, fmt.Errorf("argument %q is not known", printable(k))
	}
	return nil, nil
}}

// takes decodes arguments strictly into a T.
func takes[T any]() arguments {
	return arguments{schema.Of[T](), func(req *qmp.Request) (any, error) {
		var v T
		if err := req.DecodeArguments(&v); err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), req.Execute+": "))
		}
		return v, nil
	}}
}

// answer is the type of what a command may answer, and the filter for it.
type answer struct {
	typ    *schema.Type
	filter func(any) (any, error)
}

// nothing lets no field pass.
var nothing = answer{schema.Nothing(), func(any) (any, error) { return nil, nil }}

// gives lets the fields of T pass. QEMU's answers are decoded into a T, which
// drops the others, and made tidy where T can; the gate's own are one already.
func gives[T any]() answer {
	return answer{schema.Of[T](), func(ret any) (any, error) {
		var v T
		switch ret := ret.(type) {
		case T:
			return ret, nil
		case *T:
			return ret, nil
		case json.RawMessage:
			if err := json.Unmarshal(ret, &v); err != nil {
				return nil, fmt.Errorf("the answer is not what its entry lists: %w", err)
			}
			if t, ok := any(&v).(interface{ tidy() }); ok {
				t.tidy()
			}
			return v, nil
		}
		return nil, fmt.Errorf("the answer is a %T", ret)
	}}
}

// lookup returns the entry of a command, or the QMP error that refuses it.
func lookup(command string) (*entry, *qmp.Error) {
	e, ok := table[command]
	if ok && e.verdict != never {
		return &e, nil
	}
	why := e.why
	if !ok {
		why = "it is not on the gate's allow-list" + didYouMean(command)
	}
	return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: fmt.Sprintf("UVBond: %s: never allowed: %s", printable(command), why)}
}

func didYouMean(command string) string {
	if near := nearest.Name(command, passing); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// passing are the commands that may pass, sorted.
var passing = func() []string {
	var names []string
	for name, e := range table {
		if e.verdict != never {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}()

// CheckPolicy compiles an owner's policy for operators, or for a delegate. It
// refuses one that names a command which no policy may allow, or arguments that
// it does not have. Empty text allows nothing.
func CheckPolicy(text string) (*policy.Policy, error) {
	p, err := policy.Parse(text)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Whole().Commands() {
		if e, ok := table[c]; !ok || e.verdict != byPolicy {
			hint := ""
			if !ok {
				hint = didYouMean(c)
			}
			return nil, fmt.Errorf("a policy cannot allow %q%s", printable(c), hint)
		}
	}
	return p, checkTypes(p.File())
}

// checkTypes refuses a text with a command that nobody knows, or with arguments
// that a command of the gate can never have. Commands that never pass are left
// to the session: a text may have them where another gate would let them pass.
func checkTypes(f *automaton.File) error {
	for _, h := range f.Hypercalls() {
		e, ok := table[h.Name]
		switch {
		case !ok:
			return fmt.Errorf("there is no hypercall %q%s", printable(h.Name), didYouMean(h.Name))
		case e.verdict == never:
			continue
		}
		if found := schema.Problems(h.Name, e.args.typ, h.Arguments); len(found) > 0 {
			return errors.New(found[0])
		}
	}
	return nil
}

// printable bounds a foreign name for messages and logs.
func printable(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}
