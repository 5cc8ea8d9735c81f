package main

import (
	"fmt"
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
)

// trySchema sends every command that QEMU has, and every one of the gate's own,
// to a VM with a real QEMU: without a session, in one without a ticket, and under
// a ticket of its owner that allows exactly this command with any arguments.
func trySchema(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("real", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	s, err := recorded.Schema(recorded.Versions()[len(recorded.Versions())-1])
	if err != nil {
		return err
	}
	commands := s.WithGate().Commands()
	if t.sample {
		commands = slices.DeleteFunc(slices.Clone(commands), func(c string) bool {
			return floors[c].needs == "" && len(c)%7 != int(t.seed)%7
		})
	}
	// What ends the VM comes last.
	slices.SortStableFunc(commands, func(x, y string) int { return ending(x) - ending(y) })
	for _, command := range commands {
		c, err := s.WithGate().Command(command)
		if err != nil {
			return err
		}
		args := valueOf(c.Arguments, 0)
		if err := t.everyWay(a, m, command, args); err != nil {
			return err
		}
	}
	return nil
}

func ending(command string) int {
	if command == qmp.CmdQuit {
		return 1
	}
	return 0
}

// everyWay tries one command with arguments of the right types.
func (t *trial) everyWay(a *process, m *machine, command string, args any) error {
	f, listed := floors[command]
	line := request(command, args)
	if !listed || f.needs != needsNothing {
		o, err := a.one(line)
		if err != nil {
			return err
		}
		t.must(command+" without a session", o, deniedOr(f, anyMap(args)), whereOutside(f, anyMap(args)))
		out, err := a.run(move{Line: m.open(nil)}, move{Line: line}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		m.owe(1) // the session's own end
		t.must(command+" in a session without a ticket", out[1], deniedOr(f, anyMap(args)), in(m))
	}
	if f.needs == needsNothing && listed {
		return nil // they need no ticket; other kinds try them
	}
	ticket := m.ticket("status", func(k *bond.Ticket) {
		k.Command, k.Automaton = "own", fmt.Sprintf("automaton own = %s{ ... } ;", command)
	})
	out, err := a.run(move{Line: m.open(ticket)}, move{Line: line}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	name := command + " under a ticket that says so"
	switch {
	case !out[0].ok():
		t.refused(name, "the ticket: "+out[0].String())
		return nil
	case !listed, f.needs == needsBoot:
		t.must(name, out[1], qmp.ClassDenied, in(m))
	case command == qmp.CmdDelete: // it runs
		t.must(name, out[1], qmp.ClassRunning, nowhere())
	case command == qmp.CmdGrow, command == qmp.CmdBuild, command == qmp.CmdRevoke, command == qmp.CmdSetPolicy: // no such disk, delegation, policy
		t.must(name, out[1], qmp.ClassInvalid, nowhere())
	case command == qmp.CmdChannel: // no such kind
		t.must(name, out[1], qmp.ClassInvalid, in(m))
	default:
		t.must(name, out[1], "", nowhere())
		if command == qmp.CmdQuit {
			m.live, m.running = false, false
		}
	}
	return nil
}

// deniedOr is the answer to a command that nobody allowed: arguments that do not
// decode are told first.
func deniedOr(f floor, args map[string]any) string {
	if !decodes(f, args) {
		return qmp.ClassInvalid
	}
	return qmp.ClassDenied
}

// whereOutside: what does not even decode, and needs a session, is in no log.
func whereOutside(f floor, args map[string]any) logged {
	if !decodes(f, args) {
		return nowhere()
	}
	return inHost()
}

// decodes tells whether the arguments of a hypercall decode; those of one that
// never passes are not looked at.
func decodes(f floor, args map[string]any) bool {
	return f.fits == nil || f.fits(named([]call{{"", args}}, "")[0].Args)
}

func anyMap(args any) map[string]any {
	m, _ := args.(map[string]any)
	return m
}

// valueOf makes a value of a type, as little as will do.
func valueOf(typ *schema.Type, depth int) any {
	if typ == nil || depth > 5 {
		return nil
	}
	switch typ.Kind {
	case schema.KindObject:
		o := map[string]any{}
		for _, m := range typ.Members {
			if !m.Optional {
				o[m.Name] = valueOf(m.Type, depth+1)
			}
		}
		if depth == 0 && len(o) == 0 {
			return nil
		}
		return o
	case schema.KindArray:
		return []any{}
	case schema.KindEnum:
		return typ.Enum[0]
	case schema.KindInteger, schema.KindNumber:
		return 1
	case schema.KindBoolean:
		return true
	case schema.KindAlternate:
		return valueOf(typ.Alternatives[0], depth+1)
	}
	return "x"
}
