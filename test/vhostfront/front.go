package vhostfront

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Options of a Front. The zero value is one queue of 128 entries and 16 MiB of
// memory, with all features.
type Options struct {
	Queues, QueueSize int
	Memory            int    // bytes, beside the rings
	Without           uint64 // features not to acknowledge
	WithoutProtocol   uint64 // protocol features not to acknowledge
	NoSeal            bool   // the memory can be shrunk
	MemTable          bool   // SET_MEM_TABLE instead of ADD_MEM_REG
}

// Where the shared memory is for the guest and for the back end's messages: nowhere
// that means anything to this process.
const (
	GuestBase = 1 << 30
	UserBase  = 0x7123_0000_0000
)

// Front is a guest with its virtqueues in memory, which outlives the connection to
// a back end.
type Front struct {
	Conn     *Conn // nil when not connected
	Queues   []*Queue
	Mem      []byte // what is shared
	MemFD    int
	DataAt   int // where the memory beside the rings starts in Mem
	Features uint64
	Proto    uint64
	Config   Config

	o        Options
	inflight struct {
		fd   int
		desc []byte // payload of the messages
	}
}

// Config is the device's configuration space.
type Config struct {
	Capacity                                           int64 // bytes
	SegMax, BlockSize                                  uint32
	Queues                                             int
	MaxDiscard, MaxZeroes, MaxDiscardSeg, MaxZeroesSeg uint32 // sectors of 512 bytes; segments
	Writeback                                          bool
}

// New returns a guest that is not connected yet.
func New(o Options) (*Front, error) {
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.QueueSize == 0 {
		o.QueueSize = 128
	}
	if o.Memory == 0 {
		o.Memory = 16 << 20
	}
	f := &Front{o: o, MemFD: -1}
	f.inflight.fd = -1
	f.DataAt = o.Queues * ringBytes(o.QueueSize)
	size := f.DataAt + (o.Memory+4095)&^4095
	var err error
	if f.MemFD, err = Memfd(size, !o.NoSeal); err == nil {
		f.Mem, err = unix.Mmap(f.MemFD, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	for i := 0; i < o.Queues && err == nil; i++ {
		var q *Queue
		if q, err = newQueue(f.Mem, i*ringBytes(o.QueueSize), o.QueueSize, uint32(i)); err == nil {
			f.Queues = append(f.Queues, q)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Dial returns a guest that is connected to the back end at path, its queues
// running.
func Dial(path string, o Options) (*Front, error) {
	f, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := f.Connect(path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Memfd returns a descriptor of new memory.
func Memfd(size int, seal bool) (int, error) {
	fd, err := unix.MemfdCreate("vhostfront", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	if err = unix.Ftruncate(fd, int64(size)); err == nil && seal {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Close gives all up, the guest too.
func (f *Front) Close() {
	f.Disconnect()
	for _, q := range f.Queues {
		q.close()
	}
	if f.Mem != nil {
		_ = unix.Munmap(f.Mem)
		f.Mem = nil
	}
	for _, fd := range []*int{&f.MemFD, &f.inflight.fd} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// Disconnect ends the connection as a front end that dies does.
func (f *Front) Disconnect() {
	if f.Conn != nil {
		f.Conn.Close()
		f.Conn = nil
	}
}

// Connect sets a back end up and starts the queues where they are.
func (f *Front) Connect(path string) error {
	c, err := DialConn(path)
	if err != nil {
		return err
	}
	f.Conn = c
	if err := f.Negotiate(); err != nil {
		return err
	}
	if err := f.Share(); err != nil {
		return err
	}
	for _, q := range f.Queues {
		if err := f.Start(q); err != nil {
			return err
		}
	}
	return nil
}

func (f *Front) ask(request uint32, payload []byte, want int) ([]byte, error) {
	p, fd, err := f.Conn.Ask(request, payload)
	if fd >= 0 {
		unix.Close(fd)
	}
	if err == nil && len(p) != want {
		err = fmt.Errorf("%d bytes instead of %d", len(p), want)
	}
	if err != nil {
		return nil, fmt.Errorf("vhostfront: request %d: %w", request, err)
	}
	return p, nil
}

// Do carries out a message without an answer: with REPLY_ACK it asks for success,
// without it hopes.
func (f *Front) Do(request uint32, payload []byte, fds ...int) error {
	if f.Proto&ProtoReplyAck != 0 {
		return f.Conn.Do(request, payload, fds...)
	}
	return f.Conn.Send(request, 0, payload, fds...)
}

// Negotiate agrees on features and reads the configuration.
func (f *Front) Negotiate() error {
	p, err := f.ask(GetFeatures, nil, 8)
	if err != nil {
		return err
	}
	const known = BlkRO | BlkFlush | BlkConfigWCE | BlkMQ | BlkDiscard | BlkWriteZeroes | LogAll | RingIndirect | RingEventIdx | Protocol | Version1 | 0x56
	f.Features = binary.LittleEndian.Uint64(p) & known &^ (LogAll | f.o.Without)
	if p, err = f.ask(GetProtocolFeatures, nil, 8); err != nil {
		return err
	}
	const proto = ProtoMQ | ProtoLogShmFD | ProtoReplyAck | ProtoConfig | ProtoInflightShmFD | ProtoResetDevice | ProtoConfigureMemSlots | ProtoStatus | ProtoBackendReq
	f.Proto = binary.LittleEndian.Uint64(p) & proto &^ f.o.WithoutProtocol
	if err := f.Conn.Send(SetProtocolFeatures, 0, U64(f.Proto)); err != nil {
		return err
	}
	if err := f.Do(SetOwner, nil); err != nil {
		return err
	}
	if err := f.Do(SetFeatures, U64(f.Features)); err != nil {
		return err
	}
	return f.ReadConfig()
}

// ReadConfig asks for the configuration space.
func (f *Front) ReadConfig() error {
	if f.Proto&ProtoConfig == 0 {
		return errors.New("vhostfront: no CONFIG")
	}
	p, err := f.ask(GetConfig, append(U32s(0, 60, 0), make([]byte, 60)...), 72)
	if err != nil {
		return err
	}
	c := p[12:]
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(c[off:]) }
	now := Config{
		Capacity: int64(binary.LittleEndian.Uint64(c)) * 512, SegMax: u32(12), BlockSize: u32(20),
		Queues:     int(binary.LittleEndian.Uint16(c[34:])),
		MaxDiscard: u32(36), MaxDiscardSeg: u32(40), MaxZeroes: u32(48), MaxZeroesSeg: u32(52), Writeback: c[32] == 1,
	}
	if now != f.Config { // a load may be looking
		f.Config = now
	}
	return nil
}

// Region is the payload of ADD_MEM_REG.
func Region(guest, size, user, offset uint64) []byte { return U64s(0, guest, size, user, offset) }

// Share gives the back end the memory, and that for the requests under way.
func (f *Front) Share() error {
	size := uint64(len(f.Mem))
	var err error
	if f.Proto&ProtoConfigureMemSlots != 0 && !f.o.MemTable {
		err = f.Do(AddMemReg, Region(GuestBase, size, UserBase, 0), f.MemFD)
	} else {
		err = f.Do(SetMemTable, append(U32s(1, 0), U64s(GuestBase, size, UserBase, 0)...), f.MemFD)
	}
	if err != nil {
		return err
	}
	return f.shareInflight()
}

func (f *Front) shareInflight() (err error) {
	if f.Proto&ProtoInflightShmFD == 0 {
		return nil
	}
	if f.inflight.fd < 0 {
		p := append(U64s(0, 0), byte(len(f.Queues)), byte(len(f.Queues)>>8), byte(f.o.QueueSize), byte(f.o.QueueSize>>8), 0, 0, 0, 0)
		if f.inflight.desc, f.inflight.fd, err = f.Conn.Ask(GetInflightFD, p); err != nil {
			return err
		}
		if f.inflight.fd < 0 || len(f.inflight.desc) != 24 {
			return errors.New("vhostfront: no memory for requests under way")
		}
	}
	return f.Do(SetInflightFD, f.inflight.desc, f.inflight.fd)
}

// InflightFD is the memory in which the back end notes the requests under way.
func (f *Front) InflightFD() int { return f.inflight.fd }

// Addr is the payload of SET_VRING_ADDR.
func (q *Queue) Addr() []byte {
	return append(U32s(q.Index, 0), U64s(UserBase+uint64(q.DescAt), UserBase+uint64(q.UsedAt), UserBase+uint64(q.AvailAt), 0)...)
}

// Start sets a queue up and starts it.
func (f *Front) Start(q *Queue) error {
	if on := f.Features&RingEventIdx != 0; q.eventIdx != on { // a load may be looking
		q.eventIdx = on
	}
	for _, m := range []struct {
		request uint32
		payload []byte
		fds     []int
	}{
		{SetVringNum, U32s(q.Index, uint32(q.Size)), nil},
		{SetVringBase, U32s(q.Index, uint32(q.UsedIndex())), nil},
		{SetVringAddr, q.Addr(), nil},
		{SetVringCall, U64(uint64(q.Index)), []int{q.CallFD}},
		{SetVringErr, U64(uint64(q.Index)), []int{q.ErrFD}},
		{SetVringKick, U64(uint64(q.Index)), []int{q.KickFD}},
		{SetVringEnable, U32s(q.Index, 1), nil},
	} {
		if err := f.Do(m.request, m.payload, m.fds...); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops a queue; the back end has finished what it took. It returns where it
// would go on.
func (f *Front) Stop(q *Queue) (uint16, error) {
	p, err := f.ask(GetVringBase, U32s(q.Index, 0), 8)
	if err != nil {
		return 0, err
	}
	return uint16(binary.LittleEndian.Uint32(p[4:])), nil
}

// Guest is the guest's address of a place in Mem.
func (f *Front) Guest(at int) uint64 { return GuestBase + uint64(at) }
