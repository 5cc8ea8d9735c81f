package hub

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/uvbond/uvbond/channel/console"
)

// model is what a console does, slowly and obviously: everything in lists, one thing
// after the other.
type model struct {
	t      *testing.T
	rnd    *rand.Rand
	hub    *Hub
	ring   *memory
	guest  *guest
	people []*person
	writer *person
	token  byte
}

// person is a viewer as the model has it.
type person struct {
	*client
	session [console.SessionSize]byte
	tag     byte   // marks what this session types
	sent    uint64 // bytes of input of the session
	want    []byte // what must be typed, of the session
	wants   bool
	refused uint64
	from    uint64 // offset of the first output of this connection
	name    string
}

// guest takes what is typed.
type guest struct{ got []byte }

func (g *guest) Write(p []byte) (int, error) {
	g.got = append(g.got, p...)
	return len(p), nil
}

// TestModel runs random consoles beside the model.
func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 5)), ring: &memory{size: 96 << 10}, guest: &guest{}}
				m.hub = New(m.ring)
				ctx, stop := context.WithCancel(t.Context())
				go m.hub.Feed(ctx, m.guest)
				for range 150 {
					m.step()
					synctest.Wait()
					m.check()
				}
				m.finish()
				stop()
			})
		})
	}
}

func (m *model) step() {
	switch k := m.rnd.IntN(20); {
	case k < 6:
		n := m.rnd.IntN(1 << m.rnd.IntN(18))
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(m.rnd.Uint32())
		}
		m.ring.print(m.hub, p)
	case k < 8:
		m.arrive(nil)
	case len(m.people) == 0:
	default:
		m.act(m.people[m.rnd.IntN(len(m.people))], k)
	}
}

func (m *model) act(p *person, k int) {
	switch k {
	case 8:
		m.drop(p)
		p.leave()
	case 9: // a connection breaks and the session attaches again, after the hub noticed or before
		if m.rnd.IntN(2) == 0 {
			m.drop(p)
			p.leave()
			synctest.Wait()
		}
		m.arrive(p)
	case 10, 11:
		p.pause()
	case 12, 13:
		p.resume()
	case 14:
		mode := []console.Mode{console.Read, console.Write, console.Take}[m.rnd.IntN(3)]
		p.send(console.SetMode{Mode: mode})
		m.mode(p, mode)
	case 15:
		p.send(console.Who{})
	default:
		m.input(p)
	}
}

// arrive attaches somebody new, or a session again.
func (m *model) arrive(old *person) {
	if old == nil && len(m.people) == console.MaxViewers {
		return
	}
	p := &person{}
	mode := []console.Mode{console.Read, console.Write, console.Take}[m.rnd.IntN(3)]
	start, end := console.All(), m.ring.end()
	p.from = m.ring.oldest()
	switch m.rnd.IntN(3) {
	case 0:
		n := m.rnd.Uint64N(end + 10)
		start, p.from = console.At(n), min(n, end)
	case 1:
		n := m.rnd.Uint64N(end + 10)
		start, p.from = console.Last(n), max(end-min(n, end), p.from)
	}
	if old != nil {
		p.session, p.tag, p.sent, p.want, p.refused = old.session, old.tag, old.sent, old.want, old.refused
		old.resume() // it shall see that it is replaced
	} else {
		m.token++
		p.session, p.tag = [console.SessionSize]byte{m.token}, m.token
	}
	p.name = fmt.Sprintf("viewer %d", p.tag)
	p.client = join(m.hub, console.Attach{Session: p.session, Mode: mode, Start: start, Name: p.name})
	wrote := old != nil && m.writer == old
	if i := slices.Index(m.people, old); i >= 0 {
		m.people = slices.Delete(m.people, i, i+1)
		if wrote {
			m.writer = nil
		}
	}
	m.people = append(m.people, p)
	if wrote && mode != console.Read {
		m.writer = p
	}
	m.mode(p, mode)
}

func (m *model) mode(p *person, mode console.Mode) {
	p.wants = mode != console.Read
	if mode == console.Take {
		m.writer = p
	}
	if mode == console.Read && m.writer == p {
		m.writer = nil
	}
	m.promote()
}

func (m *model) promote() {
	for _, p := range m.people {
		if m.writer == nil && p.wants {
			m.writer = p
		}
	}
}

func (m *model) drop(p *person) {
	m.people = slices.DeleteFunc(m.people, func(o *person) bool { return o == p })
	if m.writer == p {
		m.writer = nil
	}
	m.promote()
}

func (m *model) input(p *person) {
	data := make([]byte, 1+m.rnd.IntN(200))
	for i := range data {
		data[i] = p.tag
	}
	p.send(console.Input{Offset: p.sent, Data: data})
	if m.rnd.IntN(4) == 0 { // what is sent twice is typed once
		p.send(console.Input{Offset: p.sent, Data: data})
	}
	p.sent += uint64(len(data))
	if m.writer == p {
		p.want = append(p.want, data...)
	} else {
		p.refused += uint64(len(data))
	}
}

// check compares, when everything has come to rest.
func (m *model) check() {
	m.t.Helper()
	for _, p := range m.people {
		m.checkOutput(p)
		p.mu.Lock()
		if !p.paused {
			m.checkList(p)
			if p.sent > 0 && (p.taken.Input != p.sent || p.taken.Refused != p.refused) {
				m.t.Fatalf("%s typed %d bytes, %d refused: told %+v", p.name, p.sent, p.refused, p.taken)
			}
		}
		p.mu.Unlock()
		if n := bytes.Count(m.guest.got, []byte{p.tag}); n != len(p.want) {
			m.t.Fatalf("%s: the guest got %d bytes, want %d", p.name, n, len(p.want))
		}
	}
}

// checkOutput: what came is what was printed there, without a gap that was not told, and
// nothing was lost that is still kept.
func (m *model) checkOutput(p *person) {
	m.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.problems) > 0 {
		m.t.Fatalf("%s: %s", p.name, p.problems)
	}
	if p.paused && p.hello.ID == 0 {
		return
	}
	if p.hello.Offset != p.from || p.next != p.from+p.lost+p.acked {
		m.t.Fatalf("%s began at %d, want %d; %d bytes, %d lost, stands at %d", p.name, p.hello.Offset, p.from, p.acked, p.lost, p.next)
	}
	if !p.paused && p.next != m.ring.end() {
		m.t.Fatalf("%s is at %d, %d were printed", p.name, p.next, m.ring.end())
	}
}

func (m *model) checkList(p *person) {
	m.t.Helper()
	if len(p.viewers) != len(m.people) {
		m.t.Fatalf("%s was told of %d viewers, there are %d", p.name, len(p.viewers), len(m.people))
	}
	for i, v := range p.viewers {
		o, want := m.people[i], console.Read
		if o.wants {
			want = console.Waiting
		}
		if o == m.writer {
			want = console.Write
		}
		if v.Name != o.name || v.Mode != want {
			m.t.Fatalf("%s was told that %s is %s, it is %s and %s", p.name, v.Name, v.Mode, o.name, want)
		}
	}
}

// finish ends the instance: everybody gets the rest, and then is told.
func (m *model) finish() {
	m.ring.print(m.hub, []byte("the very end"))
	for _, p := range m.people {
		p.resume()
	}
	m.hub.End(m.t.Context(), console.End{Why: console.InstanceEnded, Text: "powered off"})
	synctest.Wait()
	for _, p := range m.people {
		<-p.gone
		m.checkOutput(p)
		if p.end == nil || p.end.Why != console.InstanceEnded || p.end.Text != "powered off" {
			m.t.Fatalf("%s was not told of the end: %+v", p.name, p.end)
		}
		if err := <-p.served; err != nil {
			m.t.Fatalf("%s: %v", p.name, err)
		}
		p.c.Close()
	}
}
