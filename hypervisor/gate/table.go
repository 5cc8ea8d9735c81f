package gate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/qmp"
)

// verdict is what the allow-list says of a command before any automaton is asked.
type verdict int

const (
	// outside: belongs to the gate itself; needs no session.
	outside verdict = iota + 1
	// byTicket: passes only when a ticket's automaton accepts it.
	byTicket
	// byPolicy: a ticket's automaton or the owner's policy may accept it.
	byPolicy
)

// entry is one line of the allow-list. A command without an entry never
// passes, whatever a ticket says.
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
	// args decodes the arguments strictly into a value of its type.
	args func(*qmp.Request) (any, error)
	// why is the reason for the verdict, for people.
	why string
}

// table is the allow-list.
var table = map[string]entry{
	qmp.CmdCapabilities: {verdict: outside, args: anyOf[struct {
		Enable []string `json:"enable"`
	}], why: "handshake of every QMP client"},
	qmp.CmdQueryHost: {verdict: outside, args: none, why: "public identity of the host"},
	qmp.CmdRegister:  {verdict: outside, args: anyOf[qmp.RegisterArgs], why: "sealed by the tenant; creates a bond of its own"},
	qmp.CmdQueryVMs:  {verdict: outside, args: none, why: "run states, which the provider sees anyway"},
	qmp.CmdAttach:    {verdict: outside, args: anyOf[qmp.AttachArgs], why: "ciphertext only, compared with the registration"},
	qmp.CmdOpen:      {verdict: outside, args: anyOf[qmp.OpenArgs], why: "begins a session"},
	qmp.CmdClose:     {verdict: outside, args: none, why: "ends a session"},

	qmp.CmdQueryStatus:     {verdict: byPolicy, args: none, why: "run state only"},
	qmp.CmdStop:            {verdict: byPolicy, changes: true, instance: true, args: none, why: "pauses the vCPUs"},
	qmp.CmdCont:            {verdict: byPolicy, changes: true, instance: true, args: none, why: "runs the vCPUs"},
	qmp.CmdSystemReset:     {verdict: byPolicy, changes: true, instance: true, args: none, why: "hardware reset"},
	qmp.CmdSystemPowerdown: {verdict: byPolicy, changes: true, instance: true, args: none, why: "ACPI power button"},
	qmp.CmdQuit:            {verdict: byPolicy, changes: true, instance: true, args: none, why: "ends the instance"},

	qmp.CmdLaunch:      {verdict: byTicket, changes: true, boot: true, args: anyOf[qmp.LaunchArgs], why: "creates an instance from the registration"},
	qmp.CmdReadConsole: {verdict: byTicket, args: anyOf[qmp.ReadConsoleArgs], why: "serial output, sealed for the owner"},
	qmp.CmdReadAudit:   {verdict: byTicket, args: anyOf[qmp.ReadAuditArgs], why: "audit log, sealed for the owner"},
	qmp.CmdSetPolicy:   {verdict: byTicket, changes: true, args: none, why: "the policy travels inside the ticket"},
	qmp.CmdDelete:      {verdict: byTicket, changes: true, args: none, why: "ends the bond"},
}

// refusals gives the reason why well-known QMP commands have no entry. The
// list explains; what it leaves out is refused all the same.
var refusals = map[string]string{
	"screendump":            "the screen belongs to the owner",
	"send-key":              "the keyboard belongs to the owner",
	"input-send-event":      "keyboard and pointer belong to the owner",
	"dump-guest-memory":     "memory belongs to the owner",
	"memsave":               "memory belongs to the owner",
	"pmemsave":              "memory belongs to the owner",
	"human-monitor-command": "it can do anything that QEMU can",
	"migrate":               "the stream is the VM's memory, and its target may be a program",
	"migrate-incoming":      "an instance begins from its registration only",
	"device_add":            "devices come from the registration only",
	"device_del":            "devices come from the registration only",
	"netdev_add":            "devices come from the registration only",
	"object-add":            "devices come from the registration only",
	"chardev-add":           "it opens files and sockets of the hypervisor domain",
	"chardev-change":        "it opens files and sockets of the hypervisor domain",
	"blockdev-add":          "it opens files of the hypervisor domain; disks come from the registration only",
	"blockdev-mirror":       "it copies the disk's plaintext",
	"blockdev-backup":       "it copies the disk's plaintext",
	"drive-mirror":          "it copies the disk's plaintext",
	"drive-backup":          "it copies the disk's plaintext",
	"nbd-server-start":      "it opens the disk's plaintext to the network",
	"block-export-add":      "it opens the disk's plaintext to others",
	"add-fd":                "it puts files into QEMU",
	"getfd":                 "it puts files into QEMU",
	"qom-get":               "it reads the devices' inner state",
	"qom-set":               "it changes devices",
	"inject-nmi":            "it makes the guest crash and dump",
	"set_password":          "the screen belongs to the owner",
	"change-vnc-password":   "the screen belongs to the owner",
	"watchdog-set-action":   "it changes what a guest event means",
	"set-action":            "it changes what a guest event means",
}

// lookup returns the entry of a command, or the QMP error that refuses it.
func lookup(command string) (*entry, *qmp.Error) {
	if e, ok := table[command]; ok {
		return &e, nil
	}
	why, ok := refusals[command]
	if !ok {
		why = "it is not on the gate's allow-list"
	}
	return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: fmt.Sprintf("UVBond: %s: never allowed: %s", printable(command), why)}
}

// CheckPolicy compiles an owner's policy for operators and refuses one that
// names a command which no policy may allow. Empty text allows nothing.
func CheckPolicy(text string) (*automaton.Machine, error) {
	f, err := automaton.Parse("policy", []byte(text))
	if err != nil {
		return nil, err
	}
	m, err := f.CompilePolicy()
	if err != nil {
		return nil, err
	}
	for _, c := range m.Commands() {
		if e, ok := table[c]; !ok || e.verdict != byPolicy {
			return nil, fmt.Errorf("a policy cannot allow %q", c)
		}
	}
	return m, nil
}

// none accepts no arguments.
func none(req *qmp.Request) (any, error) {
	for k := range req.Arguments {
		return nil, fmt.Errorf("argument %q is not known", printable(k))
	}
	return nil, nil
}

// anyOf decodes arguments strictly into a T.
func anyOf[T any](req *qmp.Request) (any, error) {
	var v T
	if err := req.DecodeArguments(&v); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), req.Execute+": "))
	}
	return v, nil
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
