package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/qmp"
)

// floor is what docs/gate.md says of every hypercall that may pass at all,
// written down once more by hand: the suite must be able to disagree with the
// gate. A test holds it against the document.
type floor struct {
	needs    string // one of the needs… constants
	changes  bool
	instance bool
	fits     func(args map[string]any) bool // whether the arguments decode
}

// What a hypercall needs.
const (
	needsNothing = "–"
	needsTicket  = "ticket"
	needsBoot    = "boot ticket"
	needsPolicy  = "policy"
)

var floors = map[string]floor{
	qmp.CmdCapabilities:    {needsNothing, false, false, keys("enable")},
	qmp.CmdQueryHost:       {needsNothing, false, false, keys()},
	qmp.CmdQueryVMs:        {needsNothing, false, false, keys()},
	qmp.CmdQueryDisks:      {needsNothing, false, false, keys("vm")},
	qmp.CmdSetLimits:       {needsNothing, false, false, keys("vm", "disk", "iops", "bytes", "burst")},
	qmp.CmdRegister:        {needsNothing, false, false, keys("registration")},
	qmp.CmdAttach:          {needsNothing, false, false, keys("vm", "disks")},
	qmp.CmdOpen:            {needsNothing, false, false, keys("vm", "ticket", "wait")},
	qmp.CmdClose:           {needsNothing, false, false, keys()},
	qmp.CmdQueryStatus:     {needsPolicy, false, false, keys()},
	qmp.CmdStop:            {needsPolicy, true, true, keys()},
	qmp.CmdCont:            {needsPolicy, true, true, keys()},
	qmp.CmdSystemReset:     {needsPolicy, true, true, keys()},
	qmp.CmdSystemPowerdown: {needsPolicy, true, true, keys()},
	qmp.CmdQuit:            {needsPolicy, true, true, keys()},
	qmp.CmdLaunch:          {needsBoot, true, false, launchFits},
	qmp.CmdReadConsole:     {needsTicket, false, false, counted("offset")},
	qmp.CmdReadAudit:       {needsTicket, false, false, counted("from")},
	qmp.CmdSetPolicy:       {needsTicket, true, false, keys()},
	qmp.CmdGrow:            {needsTicket, true, false, growFits},
	qmp.CmdBuild:           {needsTicket, true, false, buildFits},
	qmp.CmdRevoke:          {needsTicket, false, false, revokeFits},
	qmp.CmdChannel:         {needsTicket, false, true, channelFits},
	qmp.CmdDelete:          {needsTicket, true, false, keys()},
}

// keys accepts arguments of these names, whatever their values are.
func keys(names ...string) func(map[string]any) bool {
	return func(args map[string]any) bool {
		for k, v := range args {
			if v == nil || !slices.Contains(names, k) {
				return false
			}
		}
		return true
	}
}

func channelFits(args map[string]any) bool {
	return keys("kind", "port")(args) && isText(args["kind"]) && isWhole(args["port"], false) &&
		(args["port"] == nil || within(args["port"], 0, 65535))
}

// Types of arguments as JSON has them; nil is one that is absent.

func isWhole(v any, signed bool) bool {
	n, ok := v.(json.Number)
	if !ok {
		return v == nil
	}
	if signed {
		_, err := n.Int64()
		return err == nil
	}
	return !strings.ContainsAny(n.String(), "-.eE") && len(n.String()) < 20
}

func isText(v any) bool { _, ok := v.(string); return ok || v == nil }

func counted(name string) func(map[string]any) bool {
	return func(args map[string]any) bool { return keys(name)(args) && isWhole(args[name], false) }
}

func growFits(args map[string]any) bool {
	return keys("disk", "size")(args) && isText(args["disk"]) && isWhole(args["size"], false)
}

func buildFits(args map[string]any) bool {
	return keys("disk", "place")(args) && isText(args["disk"]) && isPlace(args["place"])
}

func isPlace(v any) bool {
	o, ok := v.(map[string]any)
	return v == nil || ok && keys("storage", "export")(o) && isText(o["storage"]) && isText(o["export"])
}

func revokeFits(args map[string]any) bool {
	return keys("delegation", "issued-until")(args) && isText(args["delegation"]) && isWhole(args["issued-until"], true)
}

// listOf accepts a list of objects, or nothing.
func listOf(v any, f func(map[string]any) bool) bool {
	list, ok := v.([]any)
	if !ok {
		return v == nil
	}
	for _, e := range list {
		if o, ok := e.(map[string]any); !ok || !f(o) {
			return false
		}
	}
	return true
}

func launchFits(args map[string]any) bool {
	if !keys("disks", "exports", "taps", "expect")(args) || !listOf(args["exports"], func(o map[string]any) bool {
		return keys("name", "storage", "export")(o) && isText(o["name"]) && isText(o["storage"]) && isText(o["export"])
	}) {
		return false
	}
	if !listOf(args["disks"], func(o map[string]any) bool {
		return keys("name", "fd-index")(o) && isText(o["name"]) && isWhole(o["fd-index"], true)
	}) {
		return false
	}
	taps, ok := args["taps"].([]any)
	if !ok && args["taps"] != nil {
		return false
	}
	for _, i := range taps {
		if i == nil || !isWhole(i, true) {
			return false
		}
	}
	e, ok := args["expect"].(map[string]any)
	if !ok && args["expect"] != nil {
		return false
	}
	return keys("memory", "vcpus", "firmware", "machine")(e) && isWhole(e["memory"], false) && isWhole(e["vcpus"], false) &&
		isText(e["firmware"]) && isText(e["machine"])
}

// The arguments that the shipped automata accept, once more by hand. What is not
// here takes no arguments.
var shippedArguments = map[string]func(map[string]any) bool{
	qmp.CmdReadConsole: func(a map[string]any) bool { return exactly(a, "offset") && within(a["offset"], 0, 1<<63-1) },
	qmp.CmdReadAudit:   func(a map[string]any) bool { return exactly(a, "from") && within(a["from"], 0, 1<<63-1) },
	qmp.CmdRevoke: func(a map[string]any) bool {
		return exactly(a, "delegation") && matches(a["delegation"], "[0-9a-f]+") || exactly(a, "issued-until") && within(a["issued-until"], 1, 1<<63-1)
	},
	qmp.CmdGrow: func(a map[string]any) bool {
		return exactly(a, "disk", "size") && matches(a["disk"], "[a-z][a-z0-9-]{0,15}") && within(a["size"], 512, 1<<63-1)
	},
	qmp.CmdBuild:  buildShipped,
	qmp.CmdLaunch: launchShipped,
}

func buildShipped(a map[string]any) bool {
	if _, there := a["place"]; there {
		p, ok := a["place"].(map[string]any)
		if !ok || !exactly(p, "storage", "export") || !matches(p["storage"], "[a-z][a-z0-9-]*") || !matches(p["export"], "[A-Za-z0-9._/:@+-]*") {
			return false
		}
	}
	_, disk := a["disk"]
	return disk && keys("disk", "place")(a) && matches(a["disk"], "[a-z][a-z0-9-]{0,15}")
}

func launchShipped(a map[string]any) bool {
	const name = "[a-z][a-z0-9-]{0,15}"
	_, disks := a["disks"].([]any)
	if !disks || !keys("disks", "exports", "taps", "expect")(a) || !listOf(a["disks"], func(o map[string]any) bool {
		return exactly(o, "name", "fd-index") && matches(o["name"], name) && within(o["fd-index"], 0, 15)
	}) {
		return false
	}
	if v, ok := a["exports"]; ok {
		list, _ := v.([]any)
		if len(list) == 0 || !listOf(v, func(o map[string]any) bool {
			return exactly(o, "name", "storage", "export") && matches(o["name"], name) && matches(o["storage"], "[a-z][a-z0-9-]*") &&
				matches(o["export"], "[A-Za-z0-9._/:@+-]*")
		}) {
			return false
		}
	}
	if v, ok := a["taps"]; ok {
		taps, ok := v.([]any)
		if !ok || slices.ContainsFunc(taps, func(i any) bool { return !within(i, 0, 15) }) {
			return false
		}
	}
	v, ok := a["expect"]
	if !ok {
		return true
	}
	e, ok := v.(map[string]any)
	return ok && keys("memory", "vcpus", "firmware", "machine")(e) &&
		absentOr(e, "memory", func(v any) bool { return within(v, 32<<20, 1<<40) }) &&
		absentOr(e, "vcpus", func(v any) bool { return within(v, 1, 255) }) &&
		absentOr(e, "firmware", func(v any) bool { return v == "bios" || v == "uefi" }) &&
		absentOr(e, "machine", func(v any) bool { return v == "pc" || v == "q35" })
}

func absentOr(o map[string]any, key string, f func(any) bool) bool {
	v, ok := o[key]
	return !ok || f(v)
}

func exactly(args map[string]any, names ...string) bool {
	return len(args) == len(names) && keys(names...)(args)
}

func within(v any, low, high int64) bool {
	n, ok := v.(json.Number)
	if !ok || strings.ContainsAny(n.String(), ".eE") {
		return false
	}
	i, err := n.Int64()
	return err == nil && low <= i && i <= high
}

// matches is a regular expression of an automaton: longer texts never match one.
func matches(v any, pattern string) bool {
	s, ok := v.(string)
	return ok && len(s) <= 1024 && regexp.MustCompile("^(?:"+pattern+")$").MatchString(s)
}
