// Package automata holds the automata that ship with UVBond, as text: one file
// for each management command of each toolstack. Tenants put them into their
// tickets and policies. What counts at the gate is the text that the tenant
// sealed, never this package, so the texts are for people to read and sign.
package automata

import (
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uvbond/uvbond/automaton"
)

//go:embed native/*.uva libvirt-9.0-qemu-7.2/*.uva
var texts embed.FS

// The sets of automata that ship, one for each toolstack and version.
const (
	SetNative  = "native"
	SetLibvirt = "libvirt-9.0-qemu-7.2"
)

// Sets returns the names of all sets.
func Sets() []string { return []string{SetNative, SetLibvirt} }

// Names returns the automata of a set, in the order of a VM's life; parts that
// only others import stand last.
func Names(set string) []string {
	var names []string
	switch set {
	case SetNative:
		return NativeNames()
	case SetLibvirt:
		for _, l := range Libvirt {
			names = append(names, l.Name)
		}
	}
	return names
}

// Text returns the text of one automaton of a set.
func Text(set, name string) (string, error) {
	if !slices.Contains(Names(set), name) {
		return "", fmt.Errorf("no automaton %q in the set %q: there are %s", name, set, strings.Join(Names(set), ", "))
	}
	text, err := texts.ReadFile(set + "/" + name + ".uva")
	return string(text), err
}

// Load parses one automaton of a set with what it imports from the set.
func Load(set, name string) (*automaton.File, error) {
	text, err := Text(set, name)
	if err != nil {
		return nil, err
	}
	return automaton.ParseImports(set+"/"+name, []byte(text), func(other string) ([]byte, error) {
		imported, err := Text(set, other)
		return []byte(imported), err
	})
}

// native lists the management commands of the server's own toolstack in the
// order of a VM's life. Those marked may stand in an owner's policy; the others
// need the owner's ticket every time.
var native = []struct {
	command string
	policy  bool
}{
	{"build", false},
	{"start", false},
	{"status", true},
	{"pause", true},
	{"resume", true},
	{"reset", true},
	{"shutdown", true},
	{"poweroff", true},
	{"log", false},
	{"audit", false},
	{"allow", false},
	{"grow", false},
	{"undelegate", false},
	{"delete", false},
}

// NativeNames returns the management commands that Native knows.
func NativeNames() []string {
	names := make([]string, len(native))
	for i, n := range native {
		names[i] = n.command
	}
	return names
}

// PolicyNames returns the management commands that Policy takes.
func PolicyNames() []string {
	var names []string
	for _, n := range native {
		if n.policy {
			names = append(names, n.command)
		}
	}
	return names
}

// Ready-made sets of management commands, for policies.
const (
	Observe  = "observe"  // look, and nothing else
	Maintain = "maintain" // what running a machine needs, and nothing that ends it at once
	None     = "none"
)

// Presets are the ready-made sets.
var Presets = []string{Observe, Maintain, None}

var presets = map[string][]string{
	Observe:  {"status"},
	Maintain: {"status", "pause", "resume", "reset", "shutdown"},
	None:     {},
}

// Expand puts the management commands in the place of ready-made sets, without
// repetition and in the order of a VM's life. Unknown names are errors, and so is
// None beside others.
func Expand(names ...string) ([]string, error) {
	var wanted []string
	for _, name := range names {
		set, ok := presets[name]
		switch {
		case !ok:
			set = []string{name}
		case name == None && len(names) > 1:
			return nil, fmt.Errorf("%q stands alone", None)
		}
		wanted = append(wanted, set...)
	}
	for _, name := range wanted {
		if _, err := Native(name); err != nil {
			return nil, err
		}
	}
	var out []string
	for _, n := range native {
		if slices.Contains(wanted, n.command) {
			out = append(out, n.command)
		}
	}
	return out, nil
}

// Native returns the text of one automaton, named as the management command.
func Native(command string) (string, error) {
	if !slices.Contains(NativeNames(), command) {
		return "", fmt.Errorf("no automaton for %q: there are %s", command, strings.Join(NativeNames(), ", "))
	}
	text, err := texts.ReadFile("native/" + command + ".uva")
	return string(text), err
}

// Grow returns the text that a ticket for growing one disk holds: what Native says
// of grow, narrowed to this disk and this size in bytes.
func Grow(disk string, size uint64) (string, error) {
	return narrow("grow", map[string]string{anyDisk: strconv.Quote(disk), anySize: strconv.FormatUint(size, 10)})
}

// Build returns the text that a ticket for making one disk from its base image holds:
// what Native says of build, narrowed to this disk.
func Build(disk string) (string, error) {
	return narrow("build", map[string]string{anyDisk: strconv.Quote(disk)})
}

// narrow puts what one ticket is about in the place of what its command accepts.
func narrow(command string, replace map[string]string) (string, error) {
	text, err := Native(command)
	if err != nil {
		return "", err
	}
	for from, to := range replace {
		if strings.Count(text, from) != 1 {
			return "", fmt.Errorf("%s.uva has not exactly one %q", command, from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	return text, nil
}

// anyDisk and anySize are what grow.uva accepts of any disk and any size.
const (
	anyDisk = `regexp "[a-z][a-z0-9-]{0,15}"`
	anySize = "512B.."
)

// Undelegate returns the text of a ticket that takes back one delegation, by its
// id in hexadecimal, or, without an id, all that were issued until then (Unix
// seconds). It lets nothing else pass, so that the server cannot exchange them.
func Undelegate(id string, until int64) string {
	which := fmt.Sprintf("issued-until: %d", until)
	if id != "" {
		which = fmt.Sprintf("delegation: %q", id)
	}
	return "automaton undelegate =\n    uvbond-revoke{ " + which + " }\n    on abort query-status*\n    deadline 30s ;\n"
}

// Policy returns the text of a policy that allows operators these management
// commands, or ready-made sets, without a ticket. No names give the empty policy,
// which allows nothing. Commands that need the owner's ticket every time are refused.
func Policy(names ...string) (string, error) {
	names, err := Expand(names...)
	if err != nil {
		return "", err
	}
	var parts []string
	for _, n := range native {
		if !slices.Contains(names, n.command) {
			continue
		}
		if !n.policy {
			return "", fmt.Errorf("%q always needs the owner's ticket: a policy may hold %s", n.command, strings.Join(PolicyNames(), ", "))
		}
		text, err := Native(n.command)
		if err != nil {
			return "", err
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\n"), nil
}

// Describe returns the names of the automata in a policy text, for people: the
// management commands that it allows. It is an error when the text does not
// parse or compile.
func Describe(policy string) ([]string, error) {
	f, err := automaton.Parse("policy", []byte(policy))
	if err != nil {
		return nil, err
	}
	if _, err := f.CompilePolicy(); err != nil {
		return nil, err
	}
	return f.Names(), nil
}
