package vhostuser

import (
	"errors"
	"fmt"
)

// vring is what the front end has said of one virtqueue.
type vring struct {
	index   int
	size    uint16
	addr    vringAddr
	hasAddr bool
	base    uint16
	enabled bool

	kick, call, err int // -1: none
	worker          *worker
}

func newVring(i int) vring { return vring{index: i, kick: -1, call: -1, err: -1} }

// vring returns the queue of a message.
func (s *session) vring(index uint32) (*vring, error) {
	if index >= uint32(len(s.vrings)) {
		return nil, fmt.Errorf("queue %d of %d", index, len(s.vrings))
	}
	return &s.vrings[index], nil
}

var errRunning = errors.New("the queue is running")

func (s *session) setVringNum(m *message) error {
	v, err := s.vring(m.u32(0))
	n := m.u32(4)
	switch {
	case err != nil:
		return err
	case v.worker != nil:
		return errRunning
	case n == 0 || n > MaxQueueSize || n&(n-1) != 0:
		return fmt.Errorf("queue of %d entries: want a power of two up to %d", n, MaxQueueSize)
	}
	v.size = uint16(n)
	return s.start(v)
}

func (s *session) setVringBase(m *message) error {
	v, err := s.vring(m.u32(0))
	n := m.u32(4)
	switch {
	case err != nil:
		return err
	case v.worker != nil:
		return errRunning
	case n > 0xffff:
		return fmt.Errorf("base %d", n)
	}
	v.base = uint16(n)
	return nil
}

func (s *session) setVringAddr(m *message) error {
	v, err := s.vring(m.u32(0))
	if err != nil {
		return err
	}
	flags := m.u32(4)
	if flags&^vringLog != 0 {
		return fmt.Errorf("flags %#x", flags)
	}
	addr := vringAddr{desc: m.u64(8), used: m.u64(16), avail: m.u64(24), log: m.u64(32), logged: flags&vringLog != 0}
	if v.worker != nil {
		g, err := newRing(s.mem, addr, v.size)
		if err != nil {
			return err
		}
		v.worker.do(v.call, func() { v.worker.addr, v.worker.ring = addr, g })
	}
	v.addr, v.hasAddr = addr, true
	return s.start(v)
}

// setVringFD keeps one of the three event descriptors of a queue.
func (s *session) setVringFD(m *message) error {
	u := m.u64(0)
	v, err := s.vring(uint32(u & vringIndexMask))
	if err != nil {
		return err
	}
	none := u&vringNoFD != 0
	if u&^(vringIndexMask|vringNoFD) != 0 || none != (len(m.fds) == 0) {
		return fmt.Errorf("payload %#x with %d descriptors", u, len(m.fds))
	}
	fd := -1
	if !none {
		if fd, err = adoptEvent(m.take(0)); err != nil {
			return err
		}
	}
	switch m.request {
	case reqSetVringKick:
		return s.setKick(v, fd)
	case reqSetVringCall:
		s.replace(v, &v.call, fd, func(w *worker) { w.call = fd; signal(fd) })
	case reqSetVringErr:
		s.replace(v, &v.err, fd, func(w *worker) { w.err = fd })
	}
	return nil
}

// replace changes a descriptor, in the worker first.
func (s *session) replace(v *vring, at *int, fd int, f func(*worker)) {
	if v.worker != nil {
		v.worker.do(v.call, func() { f(v.worker) })
	}
	closeFD(at)
	*at = fd
}

func (s *session) setKick(v *vring, fd int) error {
	if fd < 0 {
		// To look all the time would be the alternative.
		return errors.New("queues without a kick descriptor are not supported")
	}
	var err error
	if w := v.worker; w != nil {
		w.do(v.call, func() {
			if err = w.watchKick(fd); err == nil {
				w.kick = fd
			}
		})
	}
	if err != nil {
		closeFD(&fd)
		return err
	}
	closeFD(&v.kick)
	v.kick = fd
	return s.start(v)
}

func (s *session) setVringEnable(m *message) error {
	v, err := s.vring(m.u32(0))
	n := m.u32(4)
	switch {
	case err != nil:
		return err
	case s.features&vhostProtocol == 0:
		return errors.New("protocol features were not negotiated")
	case n > 1:
		return fmt.Errorf("enable %d", n)
	}
	s.enable(v, n == 1)
	return nil
}

func (s *session) enable(v *vring, on bool) {
	v.enabled = on
	if v.worker != nil {
		v.worker.do(v.call, func() { v.worker.enabled = on })
	}
}

// getVringBase stops a queue and returns where it was.
func (s *session) getVringBase(m *message) (uint32, error) {
	v, err := s.vring(m.u32(0))
	if err != nil {
		return 0, err
	}
	s.stop(v)
	closeFD(&v.kick) // it starts again with the next one
	return uint32(v.base), nil
}

// stop ends the queue's worker when it has finished what is under way.
func (s *session) stop(v *vring) {
	if v.worker != nil {
		s.told = false
		v.base = v.worker.stop(v.call)
		s.broken = s.broken || v.worker.broken.Load()
		v.worker = nil
	}
}

// start starts the queue once everything is there that it needs.
func (s *session) start(v *vring) error {
	if v.worker != nil || v.kick < 0 || v.size == 0 || !v.hasAddr || s.mem == nil || s.features&virtioVersion1 == 0 {
		return nil
	}
	g, err := newRing(s.mem, v.addr, v.size)
	if err != nil {
		return err
	}
	w := &worker{
		srv: s.srv, counts: &s.srv.counts, index: v.index, negotiated: s.negotiated(),
		enabled: v.enabled || s.features&vhostProtocol == 0,
		kick:    v.kick, call: v.call, err: v.err,
		addr: v.addr, ring: g, lastAvail: v.base, log: s.logging(), record: s.record(v.index),
	}
	w.view = &view{mem: s.mem}
	s.mem.refs.Add(1)
	if err := w.open(v.size); err != nil {
		return fmt.Errorf("queue %d: %w", v.index, err)
	}
	v.worker = w
	s.missed()
	return nil
}

// running calls f for each queue that is running.
func (s *session) running(f func(*vring) error) error {
	for i := range s.vrings {
		if v := &s.vrings[i]; v.worker != nil {
			if err := f(v); err != nil {
				return err
			}
		}
	}
	return nil
}
