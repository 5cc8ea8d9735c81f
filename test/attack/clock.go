package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor"
	"github.com/uvbond/uvbond/hypervisor/cli"
	"github.com/uvbond/uvbond/qmp"
)

// daemonName is what this program is called where it is the daemon: the real one
// but for its clock, which can be set. Nobody but root can set a real one.
const daemonName = "uvbond-hypervisor"

// clockFile is beside the daemon's configuration and says by how many seconds its
// clock is ahead.
const clockFile = "clock"

func daemonMain() int {
	if len(os.Args) != 4 || os.Args[1] != "serve" {
		return cli.Main() // a keeper, or a QEMU to be confined
	}
	c, err := hypervisor.LoadConfig(os.Args[3])
	if err == nil {
		file := filepath.Join(filepath.Dir(os.Args[3]), clockFile)
		c.Clock = func() time.Time { return time.Now().Add(ahead(file)) }
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = hypervisor.Serve(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

func ahead(file string) time.Duration {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return time.Duration(n) * time.Second
}

// setClock sets the daemon's clock, in seconds before or after the true time.
func (w *world) setClock(seconds int) error {
	file := filepath.Join(w.lab.Dir, "hypervisor", clockFile)
	if err := os.WriteFile(file+".new", []byte(fmt.Sprint(seconds)), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

const (
	hour = 3600
	day  = 24 * hour
)

// tryClock lets tickets, delegations, registrations and limits end, and then sets
// the host's clock back, also while the daemon is down: nothing of it lives again.
func tryClock(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	text, err := automata.Policy("reset", "pause", "resume")
	if err != nil {
		return err
	}
	until := time.Now().Add(30 * time.Minute).UTC().Format(time.RFC3339)
	m, err := t.machine("clock", fmt.Sprintf("rule reset = limit 1 per 1day ;\nrule pause = until %s ;\n%s", until, text))
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	c, err := t.beforehand(a, m)
	if err != nil {
		return err
	}
	if err := t.setClock(2 * day); err != nil {
		return err
	}
	t.skew.Store(2 * day)
	if err := t.over(a, m, c, "two days on"); err != nil {
		return err
	}
	// One use a day: a new day, a new use.
	if err := t.operator(a, m, "reset, a day later", qmp.CmdSystemReset, ""); err != nil {
		return err
	}
	for _, back := range []struct {
		to      int
		restart bool
	}{{0, false}, {-30 * day, false}, {0, true}, {-30 * day, true}} {
		if err := t.setClock(back.to); err != nil {
			return err
		}
		name := fmt.Sprintf("with the clock set back by %d hours", (2*day-back.to)/hour)
		if back.restart {
			name += " while the daemon was down"
			if a, err = t.restart(); err != nil {
				return err
			}
		}
		if err := t.over(a, m, c, name); err != nil {
			return err
		}
		if err := t.operator(a, m, "reset, more than once a day, "+name, qmp.CmdSystemReset, qmp.ClassDenied); err != nil {
			return err
		}
		r, err := m.status(a)
		why := orNil(err)
		if err == nil && r.HostTime < time.Now().Unix()+2*day-60 {
			why = "the receipt's time went back"
		}
		t.accepted("the owner's status "+name, why)
	}
	return t.setClock(2 * day)
}

// restart kills the daemon as a power cut would and starts it again.
func (t *trial) restart() (*process, error) {
	t.lab.KillHypervisor()
	if err := t.lab.StartHypervisor(t.ctx); err != nil {
		return nil, err
	}
	return t.attacker()
}

// ended is what was valid once.
type ended struct {
	used, unused, late []byte // tickets
	delegated          []byte
	registration       []byte
}

// beforehand makes and uses what will be over.
func (t *trial) beforehand(a *process, m *machine) (*ended, error) {
	now := time.Now().Unix()
	c := &ended{used: m.ticket("status"), unused: m.ticket("status"), registration: m.sealed,
		late: m.ticket("status", func(k *bond.Ticket) { k.NotAfter = now + 23*hour })}
	g, err := m.delegate("bob", "status")
	if err != nil {
		return nil, err
	}
	c.delegated = g.ticket("status")
	if err := t.present(a, "a ticket in its time", m, c.used, "", nowhere()); err != nil {
		return nil, err
	}
	if err := t.operator(a, m, "reset, once", qmp.CmdSystemReset, ""); err != nil {
		return nil, err
	}
	if err := t.operator(a, m, "reset, twice in a day", qmp.CmdSystemReset, qmp.ClassDenied); err != nil {
		return nil, err
	}
	return c, t.operator(a, m, "stop, before its end", qmp.CmdStop, "")
}

// over presents what is over.
func (t *trial) over(a *process, m *machine, c *ended, when string) error {
	for name, ticket := range map[string][]byte{"a ticket that was used": c.used, "one that was not": c.unused, "one of a day": c.late, "a delegate's": c.delegated} {
		if err := t.present(a, name+" "+when, m, ticket, qmp.ClassExpired+"|"+qmp.ClassReplayed, in(m)); err != nil {
			return err
		}
	}
	o, err := a.one(request(qmp.CmdRegister, qmp.RegisterArgs{Registration: c.registration}))
	if err != nil {
		return err
	}
	where := in(m)
	if o.Class == qmp.ClassInvalid { // too old: its VM is not looked for
		where = inHost()
	}
	t.must("the registration "+when, o, qmp.ClassInvalid+"|"+qmp.ClassReplayed, where)
	return t.operator(a, m, "stop, after its end, "+when, qmp.CmdStop, qmp.ClassDenied)
}

// operator sends one hypercall without a ticket.
func (t *trial) operator(a *process, m *machine, name, command, class string) error {
	out, err := a.run(move{Line: m.open(nil)}, move{Line: request(command, nil)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	m.owe(1) // the session's own end
	if class == "" {
		m.owe(1) // and what it did
	}
	t.must(name, out[1], class, in(m))
	return nil
}
