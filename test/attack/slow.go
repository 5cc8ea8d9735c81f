package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// trySlow are connections and sessions that are not gone on with.
func trySlow(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("slow", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	if err := t.silentSession(a, m); err != nil {
		return err
	}
	if err := t.oddLines(a, m); err != nil {
		return err
	}
	return t.strangers()
}

// silentSession opens a session that keeps others out, and says nothing: after
// its deadline the gate ends it, and the owner's next command works.
func (t *trial) silentSession(a *process, m *machine) error {
	short := func(k *bond.Ticket) { k.DeadlineSeconds = 1 }
	b, err := t.attacker()
	if err != nil {
		return err
	}
	hang := make(chan []outcome, 1)
	errs := make(chan error, 1)
	go func() {
		out, err := b.run(
			move{Line: m.open(m.ticket("pause", short))}, move{Conn: 1, Line: m.open(m.ticket("status", short))},
			move{Conn: 2, Line: m.open(m.ticket("status", short))}, move{Conn: 2, Raw: []byte(`{"execute":"query-st`), Do: doSend},
			move{Do: doWait, Wait: 1100}, move{Conn: 1, Line: request(qmp.CmdSystemReset, nil)},
			move{Do: doDrain}, move{Conn: 1, Do: doDrain}, move{Conn: 2, Do: doDrain})
		errs <- err
		hang <- out
	}()
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	r, err := m.status(a)
	why := orNil(err)
	if err == nil && r.State != qmp.StateRunning {
		why = "the VM is " + r.State
	}
	t.accepted("a status while another session says nothing", why)
	_, _, err = m.do(a, "resume", qmp.CmdCont, nil)
	if err != nil {
		// The silent session keeps the VM for at most its deadline and the grace after
		// it. The refusal is in the VM's log, what was sent without a session in the host's.
		m.owe(1)
		t.refusedOutside(1)
		time.Sleep(max(0, 6500*time.Millisecond-time.Since(began)))
		_, _, err = m.do(a, "resume", qmp.CmdCont, nil)
	}
	t.accepted("a command after the silent session's deadline", orNil(err))
	if err := <-errs; err != nil {
		return err
	}
	got := <-hang
	m.owe(1)
	t.refused("a hypercall after the deadline", differs(got[5], qmp.ClassRefused))
	for i, o := range got[6:] {
		why := ""
		if !strings.Contains(o.Lost, "EOF") && !strings.Contains(o.Lost, "reset") {
			why = o.String()
		}
		t.refused(fmt.Sprintf("silent session %d is ended", i), why)
	}
	return nil
}

// oddLines are lines that do not end, that are cut, or too long, and connections
// that are closed for one direction.
func (t *trial) oddLines(a *process, m *machine) error {
	query := append(bytes.Clone(request(qmp.CmdQueryHost, nil)), '\n')
	long := append([]byte(`{"execute":"query-status","arguments":{"x":"`), bytes.Repeat([]byte("x"), 2<<20)...)
	for _, c := range []struct {
		name  string
		moves []move
		at    int
		want  string // class, "" for acceptance, "lost" for the end of the connection
	}{
		{"half a line, and then nothing to come", []move{{Raw: query[:10], Do: doSend}, {Do: doHalf}, {Do: doDrain}}, 2, "lost"},
		{"a line byte by byte", []move{{Raw: query, Do: doTrickle, Wait: 1}}, 0, ""},
		{"a question, and the connection closed for writing", []move{{Raw: query, Do: doSend}, {Do: doHalf}, {Do: doRead}}, 2, ""},
		{"a line of 2 MiB", []move{{Raw: long, Do: doLong}}, 0, qmp.ClassInvalid},
		{"a line of 2 MiB in a session", []move{{Line: m.open(m.ticket("status"))}, {Raw: long, Do: doLong}}, 1, qmp.ClassInvalid},
		{"newlines before a question", []move{{Raw: append([]byte("\n \n\r\n"), query...)}}, 0, ""},
		{"32 braces", []move{{Raw: []byte(`{"execute":"query-status","arguments":` + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 41) + "\n")}}, 0, qmp.ClassInvalid},
		{"100000 braces", []move{{Raw: []byte(strings.Repeat("[", 100000) + "\n")}}, 0, qmp.ClassInvalid},
		{"a member twice", []move{{Raw: []byte(`{"execute":"query-status","execute":"uvbond-query-host"}` + "\n")}}, 0, qmp.ClassInvalid},
		{"an unknown member", []move{{Raw: []byte(`{"execute":"uvbond-query-host","as":"root"}` + "\n")}}, 0, qmp.ClassInvalid},
		{"out of band", []move{{Raw: []byte(`{"exec-oob":"uvbond-query-host"}` + "\n")}}, 0, qmp.ClassInvalid},
		{"two requests in one line", []move{{Raw: []byte(`{"execute":"uvbond-query-host"}{"execute":"uvbond-query-host"}` + "\n")}}, 0, qmp.ClassInvalid},
		{"no UTF-8", []move{{Raw: []byte("{\"execute\":\"\xff\xfe\"}\n")}}, 0, qmp.ClassInvalid},
		{"zero bytes", []move{{Raw: append(make([]byte, 1000), '\n')}}, 0, qmp.ClassInvalid},
		{"another protocol", []move{{Raw: []byte("GET / HTTP/1.1\r\n")}}, 0, qmp.ClassInvalid},
	} {
		out, err := a.run(append(c.moves, move{Do: doClose})...)
		if err != nil {
			return err
		}
		o, why := out[c.at], ""
		if c.want == "lost" {
			if o.Lost == "" {
				why = "the connection goes on: " + o.String()
			}
		} else {
			why = differs(o, c.want)
		}
		t.note(c.name, why, c.want != "")
	}
	return nil
}

// strangers are users that may not use the gate: they are told so, once, and
// cannot keep the gate's own user out.
func (t *trial) strangers() error {
	var conns []net.Conn
	for range 40 { // as root, which is no user of the gate
		c, err := net.Dial("unix", t.lab.Gate)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	a, err := t.attacker()
	if err != nil {
		return err
	}
	o, err := a.one(request(qmp.CmdQueryHost, nil))
	if err != nil {
		return err
	}
	t.must("the gate's user beside 40 strangers", o, "", nowhere())
	for _, c := range conns {
		c.Close()
	}
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
	defer cancel()
	_, err = qmp.Dial(ctx, t.lab.Gate)
	why := ""
	if qmp.ClassOf(err) != qmp.ClassDenied {
		why = fmt.Sprint(err)
	}
	t.refusedOutside(1)
	t.refused("root of the hypervisor domain's own host speaks to the gate", why)
	return nil
}
