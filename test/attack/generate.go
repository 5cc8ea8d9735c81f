package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// Sequences are generated from the automata: every way of the machine is walked
// once, each walk is led to an end by the shortest way, and what comes out is
// changed in every way that is listed in mutations.

// walker explores one compiled automaton.
type walker struct {
	machine *automaton.Machine
	calls   []call // one for each hypercall that the text writes
	most    int    // states to explore
}

// newWalker takes an automaton's file. disk is the name of the VM's disk.
func newWalker(f *automaton.File, name, disk string, most int) (*walker, error) {
	m, err := f.Compile(name)
	if err != nil {
		return nil, err
	}
	w := &walker{machine: m, most: most}
	for _, h := range f.Hypercalls() {
		c := call{h.Name, nil}
		if members := h.Arguments.Members(); len(members) > 0 {
			c.Args, _ = exampleOf(h.Arguments, disk).(map[string]any)
		}
		if !slices.ContainsFunc(w.calls, func(o call) bool { return o.String() == c.String() }) {
			w.calls = append(w.calls, c)
		}
	}
	return w, nil
}

// exampleOf returns a value that a pattern accepts, as far as that is easily
// found; what the machine refuses after all is not walked.
func exampleOf(p automaton.Pattern, disk string) any {
	if s, ok := p.Constant(); ok {
		return s
	}
	switch p.Shape() {
	case automaton.ShapeObject:
		o := map[string]any{}
		for _, m := range p.Members() {
			if !m.Optional {
				o[m.Key] = exampleOf(m.Value, disk)
			}
		}
		return o
	case automaton.ShapeList:
		var l []any
		for _, i := range p.Items() {
			l = append(l, exampleOf(i, disk))
		}
		return l
	case automaton.ShapeOneOf:
		return exampleOf(p.Items()[0], disk)
	case automaton.ShapeString:
		for _, s := range []string{disk, strings.Repeat("0", 64), "drive0", "mig", "/machine/peripheral/balloon0", "/machine/unattached"} {
			if p.AcceptsString(s) {
				return s
			}
		}
	case automaton.ShapeInteger, automaton.ShapeNumber:
		return lowest(p.String())
	case automaton.ShapeBoolean:
		return p.String() == "true"
	case automaton.ShapeNull:
		return nil
	}
	return "x"
}

// lowest reads the lower bound of a range as the language writes it.
func lowest(pattern string) json.Number {
	text, _, _ := strings.Cut(pattern, "..")
	digits := strings.TrimRight(text, "KMGTiBsmnh")
	var n int64
	_, _ = fmt.Sscan(digits, &n)
	for unit, times := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if strings.HasSuffix(text, unit) {
			n *= times
		}
	}
	if pattern == "512B.." {
		n = machinetest.DiskBytes // of a disk: its own size can be executed
	}
	return json.Number(fmt.Sprint(n))
}

// follow runs a sequence from the start.
func (w *walker) follow(calls []call) (*automaton.Run, bool) {
	run := w.machine.Start()
	for _, c := range calls {
		if run.Step(c.Command, c.Args) != nil {
			return nil, false
		}
	}
	return run, true
}

// place is a state of the machine and a shortest way to it.
type place struct {
	way []call
	run *automaton.Run
	out []step
	end []call // shortest way to an end; nil: none is known
	has bool
}

type step struct {
	call call
	to   int
}

// words returns accepted sequences that together take every transition among the
// states explored.
func (w *walker) words() [][]call {
	places := []*place{{run: w.machine.Start()}}
	for i := 0; i < len(places) && i < w.most; i++ {
		p := places[i]
		for _, c := range w.calls {
			way := append(slices.Clone(p.way), c)
			run, ok := w.follow(way)
			if !ok {
				continue
			}
			to := slices.IndexFunc(places, func(o *place) bool { return o.run.Same(run) })
			if to < 0 {
				to = len(places)
				places = append(places, &place{way: way, run: run})
			}
			p.out = append(p.out, step{c, to})
		}
	}
	for _, p := range places {
		p.has = p.run.Done()
	}
	for changed := true; changed; {
		changed = false
		for _, p := range places {
			for _, s := range p.out {
				if to := places[s.to]; !p.has && to.has {
					p.end, p.has, changed = append([]call{s.call}, to.end...), true, true
				}
			}
		}
	}
	var out [][]call
	seen := map[string]bool{}
	for _, p := range places {
		for _, s := range p.out {
			if to := places[s.to]; to.has {
				word := slices.Concat(p.way, []call{s.call}, to.end)
				if key := fmt.Sprint(word); !seen[key] {
					seen[key] = true
					out = append(out, word)
				}
			}
		}
	}
	return out
}

// launchOf is uvbond-launch of a VM with one disk, and one more argument.
func launchOf(disk, key string, value any) call {
	args := map[string]any{"disks": []any{map[string]any{"name": disk, "fd-index": json.Number("0")}}}
	if key != "" {
		args[key] = value
	}
	return call{qmp.CmdLaunch, args}
}

// mutant is a changed sequence.
type mutant struct {
	how   string
	calls []call
}

func (m mutant) String() string {
	var names []string
	for _, c := range m.calls {
		names = append(names, c.String())
	}
	return m.how + ": " + strings.Join(names, " → ")
}

// strangers are put into sequences to which they do not belong: all that may pass
// somewhere, and some of what never does.
func strangers(disk string) []call {
	num := func(n int) json.Number { return json.Number(fmt.Sprint(n)) }
	return []call{
		{qmp.CmdQueryStatus, nil}, {qmp.CmdStop, nil}, {qmp.CmdCont, nil}, {qmp.CmdSystemReset, nil}, {qmp.CmdSystemPowerdown, nil}, {qmp.CmdQuit, nil},
		{qmp.CmdReadConsole, map[string]any{"offset": num(0)}}, {qmp.CmdReadAudit, map[string]any{"from": num(0)}},
		{qmp.CmdSetPolicy, nil}, {qmp.CmdDelete, nil}, {qmp.CmdChannel, map[string]any{"kind": "console"}},
		{qmp.CmdRevoke, map[string]any{"delegation": strings.Repeat("a", 64)}},
		{qmp.CmdGrow, map[string]any{"disk": disk, "size": num(machinetest.DiskBytes)}},
		{qmp.CmdBuild, map[string]any{"disk": disk}},
		{qmp.CmdBuild, map[string]any{"disk": disk, "place": map[string]any{"storage": "san", "export": "x"}}},
		{qmp.CmdBuild, map[string]any{"disk": disk, "place": map[string]any{"storage": "nbd://evil", "export": "x"}}},
		launchOf(disk, "", nil),
		launchOf(disk, "expect", map[string]any{"memory": num(32 << 20), "vcpus": num(1), "firmware": "bios", "machine": "pc"}),
		launchOf(disk, "expect", map[string]any{"memory": num(1 << 30), "machine": "q35"}),
		launchOf(disk, "taps", []any{num(1)}),
		launchOf(disk, "exports", []any{map[string]any{"name": "data", "storage": "san", "export": "nbd://evil/x"}}),
		launchOf(disk, "kernel", "/boot/vmlinuz"),
		{qmp.CmdCapabilities, nil}, {qmp.CmdQueryHost, nil}, {qmp.CmdQueryVMs, nil}, {qmp.CmdOpen, map[string]any{"vm": "nobody"}},
		{"screendump", map[string]any{"filename": "/tmp/x"}}, {"human-monitor-command", map[string]any{"command-line": "info registers"}},
		{"migrate", map[string]any{"uri": "exec:id"}}, {"getfd", map[string]any{"fdname": "x"}}, {"device_add", map[string]any{"driver": "e1000"}},
		{"blockdev-add", map[string]any{"driver": "file", "node-name": "x", "filename": "/etc/shadow"}}, {"no-such-command", nil}, {"STOP", nil},
	}
}

// mutations returns every change of a word: prefixes, extensions and insertions,
// omissions, repetitions, exchanges, replacements, and each argument changed alone.
func mutations(word []call, strange []call) (out []mutant) {
	put := func(how string, parts ...[]call) { out = append(out, mutant{how, slices.Concat(parts...)}) }
	put("as it is", word)
	for i := range word {
		put(fmt.Sprintf("cut after %d", i), word[:i])
		put(fmt.Sprintf("without %d", i), word[:i], word[i+1:])
		put(fmt.Sprintf("%d twice", i), word[:i+1], word[i:])
		for j := i + 1; j < len(word); j++ {
			swapped := slices.Clone(word)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			put(fmt.Sprintf("%d and %d exchanged", i, j), swapped)
		}
		for _, args := range changedArguments(word[i].Args) {
			put(fmt.Sprintf("an argument of %d changed", i), word[:i], []call{{word[i].Command, args}}, word[i+1:])
		}
		for _, s := range strange {
			put(fmt.Sprintf("%s in the place of %d", s.Command, i), word[:i], []call{s}, word[i+1:])
		}
	}
	for i := 0; i <= len(word); i++ {
		for _, s := range strange {
			put(fmt.Sprintf("%s before %d", s.Command, i), word[:i], []call{s}, word[i:])
		}
	}
	reversed := slices.Clone(word)
	slices.Reverse(reversed)
	put("backwards", reversed)
	put("all of it twice", word, word)
	return out
}

// changedArguments returns args with one thing changed each.
func changedArguments(args map[string]any) (out []map[string]any) {
	with := func(key string, v any) {
		c := map[string]any{}
		for k, old := range args {
			c[k] = old
		}
		if c[key] = v; v == (absent{}) {
			delete(c, key)
		}
		out = append(out, c)
	}
	with("surplus", json.Number("1"))
	for key, v := range args {
		with(key, absent{})
		with(key, nil)
		with(strings.ToUpper(key[:1])+key[1:], v)
		for _, other := range changedValue(v) {
			with(key, other)
		}
	}
	return out
}

// absent stands for a member that is taken away.
type absent struct{}

func changedValue(v any) (out []any) {
	switch v := v.(type) {
	case json.Number:
		var n int64
		_, _ = fmt.Sscan(v.String(), &n)
		for _, s := range []string{fmt.Sprint(n + 1), fmt.Sprint(n - 1), "-9223372036854775808", "9007199254740993", v.String() + ".0", v.String() + ".5", v.String() + "e0", "1e400"} {
			out = append(out, json.Number(s))
		}
		out = append(out, v.String(), true, []any{v}, map[string]any{"x": v})
	case string:
		out = append(out, v+"x", "", strings.ToUpper(v), v+"\n", v+"\x00", "../"+v, json.Number("1"), true, []any{v}, strings.Repeat("a", 70000))
	case map[string]any:
		for _, m := range changedArguments(v) {
			out = append(out, m)
		}
		out = append(out, "x", []any{v})
	case []any:
		out = append(out, []any{}, append(slices.Clone(v), v...), append(slices.Clone(v), "x"), append(slices.Clone(v), nil), "x", map[string]any{})
		for i := range v {
			for _, other := range changedValue(v[i]) {
				l := slices.Clone(v)
				l[i] = other
				out = append(out, l)
			}
		}
	}
	return out
}

// draw takes n of a list by lot, in their order; 0 takes all.
func draw[T any](r *rand.Rand, list []T, n int) []T {
	if n <= 0 || len(list) <= n {
		return list
	}
	taken := r.Perm(len(list))[:n]
	slices.Sort(taken)
	out := make([]T, n)
	for i, at := range taken {
		out[i] = list[at]
	}
	return out
}

// shipped reads an automaton of a set: what the walker walks, and what the oracle
// reads. The text is the canonical one, which says everything by itself.
func shipped(set, name string) (f *automaton.File, canonical string, t *text, err error) {
	if f, err = automata.Load(set, name); err != nil {
		return nil, "", nil, err
	}
	canonical = f.String()
	t, err = readAutomaton(canonical)
	return f, canonical, t, err
}
