package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// setMemTable replaces all of guest memory.
func (s *session) setMemTable(m *message) error {
	n := m.u32(0)
	if n > maxTable || len(m.payload) != 8+int(n)*memRegionSize || len(m.fds) != int(n) {
		return fmt.Errorf("%d regions in %d bytes with %d descriptors", n, len(m.payload), len(m.fds))
	}
	var regions []*region
	for i, fd := range m.fds {
		r, err := mapRegion(m.spec(8+i*memRegionSize), fd)
		if err != nil {
			for _, r := range regions {
				r.release()
			}
			return err
		}
		regions = append(regions, r)
	}
	mem, err := newMemory(regions)
	if err != nil {
		return err
	}
	return s.setMemory(mem)
}

func (s *session) addMemReg(m *message) error {
	if len(m.fds) != 1 {
		return errors.New("no descriptor")
	}
	old := s.mem
	if old == nil {
		old = &memory{}
	}
	r, err := mapRegion(m.spec(8), m.fds[0])
	if err != nil {
		return err
	}
	mem, err := old.with(r)
	if err != nil {
		return err
	}
	return s.setMemory(mem)
}

func (s *session) remMemReg(m *message) error {
	if s.mem == nil {
		return errors.New("there is no memory")
	}
	mem, err := s.mem.without(m.spec(8))
	if err != nil {
		return err
	}
	return s.setMemory(mem)
}

// setMemory gives mem to all queues. When it returns, no new request uses the
// memory before.
func (s *session) setMemory(mem *memory) error {
	rings := map[*vring]*ring{}
	err := s.running(func(v *vring) (err error) {
		rings[v], err = newRing(mem, v.addr, v.size)
		return err
	})
	if err != nil {
		mem.release()
		return err
	}
	for v, g := range rings {
		mem.refs.Add(1)
		v.worker.do(v.call, func() { v.worker.setMemory(mem, g) })
	}
	if s.mem != nil {
		s.mem.release()
	}
	s.mem = mem
	for i := range s.vrings {
		if err := s.start(&s.vrings[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) setLogBase(m *message) error {
	if len(m.fds) != 1 {
		return errors.New("no descriptor")
	}
	log, err := mapLog(m.fds[0], m.u64(8), m.u64(0))
	if err != nil {
		return err
	}
	old := s.log
	s.log = log
	s.pushLog()
	old.close()
	return nil
}

// logging returns the log if it is switched on.
func (s *session) logging() *shared {
	if s.features&vhostLogAll == 0 {
		return nil
	}
	return s.log
}

func (s *session) pushLog() {
	log := s.logging()
	_ = s.running(func(v *vring) error {
		v.worker.do(v.call, func() { v.worker.log = log })
		return nil
	})
}

func (s *session) checkInflight(m *message) (queues, size int, err error) {
	queues, size = int(binary.LittleEndian.Uint16(m.payload[16:])), int(binary.LittleEndian.Uint16(m.payload[18:]))
	if queues == 0 || queues > len(s.vrings) || size == 0 || size > MaxQueueSize {
		return 0, 0, fmt.Errorf("%d queues of %d entries", queues, size)
	}
	return queues, size, nil
}

// getInflight makes the memory that outlives us; the front end keeps it.
func (s *session) getInflight(m *message) (answer, error) {
	queues, size, err := s.checkInflight(m)
	if err != nil {
		return answer{}, err
	}
	fd, n, err := newInflight(queues, size)
	if err != nil {
		return answer{}, err
	}
	p := make([]byte, len(m.payload))
	binary.LittleEndian.PutUint64(p, n)
	copy(p[16:20], m.payload[16:20])
	return answer{payload: p, fd: fd, reply: true}, nil
}

func (s *session) setInflight(m *message) error {
	queues, size, err := s.checkInflight(m)
	switch {
	case err != nil:
		return err
	case len(m.fds) != 1:
		return errors.New("no descriptor")
	case s.running(func(*vring) error { return errRunning }) != nil:
		return errRunning
	case m.u64(0) < uint64(queues*inflightBytes(size)):
		return fmt.Errorf("%d bytes for %d queues of %d entries", m.u64(0), queues, size)
	}
	mem, err := mapLog(m.fds[0], m.u64(8), m.u64(0))
	if err != nil {
		return err
	}
	s.inflight.close()
	s.inflight, s.perQueue = mem, inflightBytes(size)
	return nil
}

// record returns a queue's part of the memory for requests under way.
func (s *session) record(index int) []byte {
	if s.inflight == nil || (index+1)*s.perQueue > len(s.inflight.mem) {
		return nil
	}
	return s.inflight.mem[index*s.perQueue:][:s.perQueue:s.perQueue]
}
