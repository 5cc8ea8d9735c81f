package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// session is the state of one connection. One goroutine uses it, but for back.
type session struct {
	srv      *Server
	features uint64 // acknowledged
	proto    uint64 // acknowledged
	wce      bool
	status   uint8
	broken   bool  // a queue was, since the last reset
	read     int64 // size of the Device when the front end last read the configuration
	told     bool  // that it is another one, since the queues started
	mem      *memory
	vrings   []vring

	log      *shared // the log of dirty pages
	inflight *shared
	perQueue int // bytes of inflight for each queue

	back struct {
		sync.Mutex
		fd int // socket for our requests; -1: none
	}
}

func newSession(srv *Server) *session {
	s := &session{srv: srv, wce: true}
	s.back.fd = -1
	for i := range srv.queues() {
		s.vrings = append(s.vrings, newVring(i))
	}
	return s
}

// close finishes what is under way and gives everything back.
func (s *session) close() {
	for i := range s.vrings {
		v := &s.vrings[i]
		s.stop(v)
		closeFD(&v.kick)
		closeFD(&v.call)
		closeFD(&v.err)
	}
	if s.mem != nil {
		s.mem.release()
		s.mem = nil
	}
	s.log.close()
	s.inflight.close()
	s.log, s.inflight = nil, nil
	s.setBack(-1)
}

// answer is what a message is replied to with.
type answer struct {
	payload []byte
	fd      int
	reply   bool // else only when the front end asks
}

func u64(v uint64) answer {
	return answer{payload: binary.LittleEndian.AppendUint64(nil, v), fd: -1, reply: true}
}

func pair(a, b uint32) answer {
	return answer{payload: binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, a), b), fd: -1, reply: true}
}

// handle carries out one message, whose shape is right. An error changes nothing
// that matters: the front end may go on if it asked how it went.
func (s *session) handle(m *message) (answer, error) {
	if need := shapes[m.request].proto; need != 0 && s.proto&need == 0 {
		return answer{}, errors.New("the protocol feature was not negotiated")
	}
	switch m.request {
	case reqGetFeatures:
		return u64(features(s.srv.Device)), nil
	case reqGetProtocolFeatures:
		return u64(protoOffered), nil
	case reqGetQueueNum:
		return u64(uint64(len(s.vrings))), nil
	case reqGetMaxMemSlots:
		return u64(MaxMemorySlots), nil
	case reqGetStatus:
		return u64(uint64(s.getStatus())), nil
	case reqGetVringBase:
		base, err := s.getVringBase(m)
		return pair(m.u32(0), base), err
	case reqGetConfig:
		return s.getConfig(m), nil
	case reqGetInflightFD:
		return s.getInflight(m)
	case reqSetLogBase:
		return u64(0), s.setLogBase(m)
	}
	return answer{fd: -1}, s.change(m)
}

// change carries out the messages that have no answer of their own.
func (s *session) change(m *message) error {
	switch m.request {
	case reqSetFeatures:
		return s.setFeatures(m.u64(0))
	case reqSetProtocolFeatures:
		if f := m.u64(0); f&^protoOffered != 0 {
			return fmt.Errorf("features %#x were not offered", f&^uint64(protoOffered))
		}
		s.proto = m.u64(0)
	case reqSetOwner, reqSetLogFD:
	case reqResetOwner:
		for i := range s.vrings {
			s.enable(&s.vrings[i], false)
		}
	case reqSetMemTable:
		return s.setMemTable(m)
	case reqAddMemReg:
		return s.addMemReg(m)
	case reqRemMemReg:
		return s.remMemReg(m)
	case reqSetVringNum:
		return s.setVringNum(m)
	case reqSetVringAddr:
		return s.setVringAddr(m)
	case reqSetVringBase:
		return s.setVringBase(m)
	case reqSetVringKick, reqSetVringCall, reqSetVringErr:
		return s.setVringFD(m)
	case reqSetVringEnable:
		return s.setVringEnable(m)
	case reqSetBackendReqFD:
		return s.setBackendFD(m)
	case reqSetConfig:
		return s.setConfig(m)
	case reqSetInflightFD:
		return s.setInflight(m)
	case reqResetDevice:
		s.reset()
	case reqSetStatus:
		return s.setStatus(m.u64(0))
	default:
		return errors.New("not supported")
	}
	return nil
}

// setFeatures may change whether dirty pages are logged while queues run, and
// nothing else.
func (s *session) setFeatures(f uint64) error {
	if extra := f &^ features(s.srv.Device); extra != 0 {
		return fmt.Errorf("features %#x were not offered", extra)
	}
	changed := f ^ s.features
	if changed&^vhostLogAll != 0 && s.running(func(*vring) error { return errRunning }) != nil {
		return errRunning
	}
	s.features = f
	if changed&vhostLogAll != 0 {
		s.pushLog()
	}
	for i := range s.vrings {
		if err := s.start(&s.vrings[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) negotiated() negotiated {
	f := s.features
	return negotiated{
		indirect: f&ringIndirect != 0, eventIdx: f&ringEventIdx != 0,
		discard: f&blkDiscard != 0, zeroes: f&blkWriteZeroes != 0,
		// VIRTIO 5.2.5.2: without a flush there is nothing to be flushed.
		through: f&blkFlush == 0 || f&blkConfigWCE != 0 && !s.wce,
	}
}

func (s *session) getConfig(m *message) answer {
	off, n := m.u32(0), m.u32(4)
	a := answer{fd: -1, reply: true}
	if n == 0 || n > maxConfig || off > maxConfig-n || int(n) != len(m.payload)-configHeader {
		return a // empty: an error
	}
	s.read = s.srv.Device.Size()
	a.payload = append(a.payload, m.payload[:configHeader]...)
	a.payload = append(a.payload, config(s.srv.Device, len(s.vrings), s.wce)[off:off+n]...)
	return a
}

// setConfig takes the field that a driver may write; with the flag of migration the
// others may be there as well.
func (s *session) setConfig(m *message) error {
	off, n, flags := m.u32(0), m.u32(4), m.u32(8)
	if n > maxConfig || off > maxConfig-n || int(n) != len(m.payload)-configHeader || flags > 1 {
		return fmt.Errorf("%d bytes at %d, flags %d", n, off, flags)
	}
	inside := off <= configWCE && configWCE < off+n
	if flags == 0 && (n != 1 || !inside) {
		return fmt.Errorf("%d bytes at %d are read-only", n, off)
	}
	if inside {
		v := m.payload[configHeader+configWCE-off]
		if v > 1 {
			return fmt.Errorf("writeback %d", v)
		}
		s.wce = v == 1
	}
	g := s.negotiated()
	return s.running(func(v *vring) error {
		v.worker.do(v.call, func() { v.worker.through = g.through })
		return nil
	})
}

func (s *session) getStatus() uint8 {
	broken := s.broken
	_ = s.running(func(v *vring) error { broken = broken || v.worker.broken.Load(); return nil })
	if broken {
		return s.status | statusNeedsReset
	}
	return s.status
}

// setStatus 0 is a reset: queues stop, and can still be asked for their bases.
func (s *session) setStatus(status uint64) error {
	if status > 0xff {
		return fmt.Errorf("status %#x", status)
	}
	if s.status = uint8(status); status == 0 {
		s.stopAll()
	}
	return nil
}

func (s *session) stopAll() {
	for i := range s.vrings {
		v := &s.vrings[i]
		s.stop(v)
		closeFD(&v.kick)
	}
	s.broken = false
}

func (s *session) reset() {
	s.stopAll()
	for i := range s.vrings {
		v := &s.vrings[i]
		v.size, v.hasAddr, v.base, v.enabled = 0, false, 0, false
	}
	s.status, s.wce = 0, true
}

// setBack replaces the socket for our requests.
func (s *session) setBack(fd int) {
	s.back.Lock()
	defer s.back.Unlock()
	closeFD(&s.back.fd)
	s.back.fd = fd
}

func (s *session) setBackendFD(m *message) error {
	if len(m.fds) != 1 {
		return errors.New("no descriptor")
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.fds[0], &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("not a socket")
	}
	s.setBack(m.take(0))
	return nil
}

// quietTime is how long after the start of a queue the front end is told of a size
// that it missed. QEMU is then past the messages that start a device: its own code of
// version 7.2 goes wrong when it is asked something in the middle of them.
const quietTime = 200 * time.Millisecond

// missed tells a front end that last saw another size. QEMU 7.2 forgets what it is
// told while the VM is paused, and does not look again when it has connected again.
func (s *session) missed() {
	if s.read != s.srv.Device.Size() && !s.told {
		s.told = true
		time.AfterFunc(quietTime, s.configChanged)
	}
}

// configChanged tells the front end, if it listens. It may be called from any
// goroutine and never waits.
func (s *session) configChanged() {
	b := binary.LittleEndian.AppendUint32(nil, backendConfigChange)
	b = binary.LittleEndian.AppendUint32(b, flagVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	s.back.Lock()
	defer s.back.Unlock()
	if s.back.fd >= 0 {
		_ = unix.Sendto(s.back.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	}
}
