package vhostfront

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// known are the requests of the protocol that a disk's back end has, with the
// lengths and descriptors that they may have.
var known = []struct {
	name     string
	request  uint32
	min, max int
	fds      int
	proto    uint64
}{
	{"GET_FEATURES", GetFeatures, 0, 0, 0, 0},
	{"SET_FEATURES", SetFeatures, 8, 8, 0, 0},
	{"SET_OWNER", SetOwner, 0, 0, 0, 0},
	{"RESET_OWNER", ResetOwner, 0, 0, 0, 0},
	{"SET_MEM_TABLE", SetMemTable, 8, 264, 8, 0},
	{"SET_LOG_BASE", SetLogBase, 16, 16, 1, ProtoLogShmFD},
	{"SET_VRING_NUM", SetVringNum, 8, 8, 0, 0},
	{"SET_VRING_ADDR", SetVringAddr, 40, 40, 0, 0},
	{"SET_VRING_BASE", SetVringBase, 8, 8, 0, 0},
	{"GET_VRING_BASE", GetVringBase, 8, 8, 0, 0},
	{"SET_VRING_KICK", SetVringKick, 8, 8, 1, 0},
	{"SET_VRING_CALL", SetVringCall, 8, 8, 1, 0},
	{"SET_VRING_ERR", SetVringErr, 8, 8, 1, 0},
	{"GET_PROTOCOL_FEATURES", GetProtocolFeatures, 0, 0, 0, 0},
	{"SET_PROTOCOL_FEATURES", SetProtocolFeatures, 8, 8, 0, 0},
	{"GET_QUEUE_NUM", GetQueueNum, 0, 0, 0, 0},
	{"SET_VRING_ENABLE", SetVringEnable, 8, 8, 0, 0},
	{"SET_BACKEND_REQ_FD", SetBackendReqFD, 0, 0, 1, ProtoBackendReq},
	{"GET_CONFIG", GetConfig, 12, 268, 0, ProtoConfig},
	{"SET_CONFIG", SetConfig, 12, 268, 0, ProtoConfig},
	{"GET_INFLIGHT_FD", GetInflightFD, 20, 24, 0, ProtoInflightShmFD},
	{"SET_INFLIGHT_FD", SetInflightFD, 20, 24, 1, ProtoInflightShmFD},
	{"RESET_DEVICE", ResetDevice, 0, 0, 0, ProtoResetDevice},
	{"GET_MAX_MEM_SLOTS", GetMaxMemSlots, 0, 0, 0, ProtoConfigureMemSlots},
	{"ADD_MEM_REG", AddMemReg, 40, 40, 1, ProtoConfigureMemSlots},
	{"REM_MEM_REG", RemMemReg, 40, 40, 1, ProtoConfigureMemSlots},
	{"SET_STATUS", SetStatus, 8, 8, 0, ProtoStatus},
	{"GET_STATUS", GetStatus, 0, 0, 0, ProtoStatus},
}

func raw(b []byte) func(*Front) error {
	return func(f *Front) error { _ = f.Conn.Raw(b); return nil }
}

// sized returns a header that announces n bytes, and has some.
func sized(request uint32, announced uint32, payload int) []byte {
	b := Message(request, Version, make([]byte, payload))
	binary.LittleEndian.PutUint32(b[8:], announced)
	return b
}

// headerCases are messages whose form is wrong.
func headerCases() []Case {
	var cs []Case
	add := func(stage Stage, b []byte, format string, args ...any) {
		cs = append(cs, Case{fmt.Sprintf(format, args...), stage, Closed, raw(b)})
	}
	for _, request := range []uint32{0, 19, 20, 22, 23, 26, 27, 28, 29, 30, 33, 35, 41, 42, 43, 63, 255, 65536 + 1, 1 << 31, math.MaxUint32} {
		add(Negotiated, Message(request, Version, nil), "request %d", request)
	}
	for _, flags := range []uint32{0, 2, 3, Version | Reply, Version | 1<<4, Version | 1<<31, math.MaxUint32} {
		add(Fresh, Message(GetFeatures, flags, nil), "flags %#x", flags)
		add(Running, Message(GetFeatures, flags, nil), "flags %#x, running", flags)
	}
	for _, k := range known {
		if k.min > 0 {
			add(Negotiated, sized(k.request, uint32(k.min-1), k.min-1), "%s a byte short", k.name)
			add(Negotiated, sized(k.request, 0, 0), "%s without payload", k.name)
		}
		add(Negotiated, sized(k.request, uint32(k.max+1), k.max+1), "%s a byte long", k.name)
		add(Running, sized(k.request, math.MaxUint32, 64), "%s of 4 GiB", k.name)
	}
	cut := Message(SetFeatures, Version, U64(0))
	for n := 1; n < len(cut); n++ {
		cs = append(cs, Case{fmt.Sprintf("%d bytes of a message", n), Running, Closed, func(f *Front) error {
			_ = f.Conn.Raw(cut[:n])
			return f.Conn.c.CloseWrite()
		}})
	}
	return cs
}

// featureCases agree on what was not offered, or use what was not agreed on.
func featureCases() []Case {
	var cs []Case
	for bit := range 64 {
		cs = append(cs, Case{fmt.Sprintf("feature %d", bit), Negotiated, Any, func(f *Front) error {
			offered, err := f.ask(GetFeatures, nil, 8)
			if err != nil {
				return err
			}
			err = f.Do(SetFeatures, U64(f.Features|1<<bit))
			if in := binary.LittleEndian.Uint64(offered)>>bit&1 == 1; in != (err == nil) {
				return fmt.Errorf("offered: %v, answer: %v", in, err)
			}
			return nil
		}}, Case{fmt.Sprintf("protocol feature %d", bit), Negotiated, Any, func(f *Front) error {
			offered, err := f.ask(GetProtocolFeatures, nil, 8)
			if err != nil {
				return err
			}
			err = f.Do(SetProtocolFeatures, U64(f.Proto|1<<bit))
			if in := binary.LittleEndian.Uint64(offered)>>bit&1 == 1; in != (err == nil) {
				return fmt.Errorf("offered: %v, answer: %v", in, err)
			}
			return nil
		}})
	}
	for _, k := range known {
		if k.proto != 0 {
			cs = append(cs, Case{k.name + " before negotiation", Fresh, Closed, raw(Message(k.request, Version, make([]byte, k.min)))})
		}
	}
	cs = append(cs,
		Case{"other features while running", Running, Refused, func(f *Front) error { return f.Do(SetFeatures, U64(f.Features&^RingEventIdx)) }},
		Case{"no VERSION_1", Negotiated, Accepted, func(f *Front) error {
			if err := f.Do(SetFeatures, U64(f.Features&^Version1)); err != nil {
				return err
			}
			if err := f.Share(); err != nil {
				return err
			}
			return f.Start(f.Queues[0])
		}})
	return cs
}

// descriptorCases come with descriptors that are missing, too many, or of another
// kind.
func descriptorCases() []Case {
	var cs []Case
	for _, k := range known {
		payload := make([]byte, k.min)
		for _, extra := range []int{k.fds + 1, k.fds + 10} {
			cs = append(cs, Case{fmt.Sprintf("%s with %d descriptors", k.name, extra), Negotiated, Closed, func(f *Front) error {
				fds := make([]int, extra)
				for i := range fds {
					fds[i] = f.Queues[0].KickFD
				}
				_ = f.Conn.Send(k.request, 0, payload, fds...)
				return nil
			}})
		}
	}
	right := map[uint32][]byte{
		SetLogBase: U64s(4096, 0), SetVringKick: U64(0), SetVringCall: U64(0), SetVringErr: U64(0), SetBackendReqFD: nil,
		SetInflightFD: append(U64s(4096, 0), 1, 0, 128, 0), AddMemReg: Region(0, 4096, 0, 0),
		SetMemTable: append(U32s(1, 0), U64s(0, 4096, 0, 0)...),
	}
	for _, k := range known {
		payload, ok := right[k.request]
		if !ok {
			continue
		}
		cs = append(cs, Case{k.name + " without a descriptor", Negotiated, Refused, func(f *Front) error { return f.Do(k.request, payload) }})
		for kind, open := range kinds {
			event := k.request == SetVringKick || k.request == SetVringCall || k.request == SetVringErr
			if kind == "event" && event || kind == "socket" && k.request == SetBackendReqFD {
				continue
			}
			cs = append(cs, Case{fmt.Sprintf("%s with a %s", k.name, kind), Negotiated, Refused, func(f *Front) error {
				fd, err := open()
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return f.Do(k.request, payload, fd)
			}})
		}
	}
	return cs
}

// kinds of descriptors, none of which is memory.
var kinds = map[string]func() (int, error){
	"event": func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) },
	"socket": func() (int, error) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			unix.Close(p[1])
		}
		return p[0], err
	},
	"pipe": func() (int, error) {
		var p [2]int
		err := unix.Pipe2(p[:], unix.O_CLOEXEC)
		if err == nil {
			unix.Close(p[1])
		}
		return p[0], err
	},
	"null device": func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0) },
	"folder":      func() (int, error) { return unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0) },
	"path":        func() (int, error) { return unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0) },
	"program": func() (int, error) {
		self, err := os.Executable()
		if err != nil {
			return -1, err
		}
		return unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	},
	"empty memfd": func() (int, error) { return Memfd(0, false) },
}

// configCases ask for, and change, what is not theirs.
func configCases() []Case {
	var cs []Case
	for _, c := range [][2]uint32{{0, 0}, {0, 257}, {256, 1}, {255, 2}, {math.MaxUint32, 1}, {1, math.MaxUint32}, {math.MaxUint32, math.MaxUint32}, {0, 59}} {
		cs = append(cs, Case{fmt.Sprintf("GET_CONFIG of %d bytes at %d", c[1], c[0]), Running, Any, func(f *Front) error {
			p, err := f.ask(GetConfig, append(U32s(c[0], c[1], 0), make([]byte, 60)...), 0)
			if err != nil || len(p) > 0 {
				return fmt.Errorf("%d bytes, %w", len(p), err)
			}
			return nil
		}})
	}
	for _, c := range []struct {
		off, n, flags uint32
		data          []byte
	}{
		{0, 8, 0, make([]byte, 8)}, {32, 2, 0, []byte{1, 0}}, {31, 1, 0, []byte{0}}, {33, 1, 0, []byte{0}}, {32, 1, 0, []byte{2}},
		{32, 1, 2, []byte{1}}, {32, 1, 0, nil}, {32, 0, 0, nil}, {32, 1, 0, []byte{1, 1}}, {math.MaxUint32, 1, 0, []byte{1}}, {0, 60, 0, make([]byte, 60)},
	} {
		cs = append(cs, Case{fmt.Sprintf("SET_CONFIG of %d bytes at %d, flags %d, %v", c.n, c.off, c.flags, c.data), Running, Refused, func(f *Front) error {
			return f.Do(SetConfig, append(U32s(c.off, c.n, c.flags), c.data...))
		}})
	}
	return append(cs, Case{"a status that is none", Running, Refused, func(f *Front) error { return f.Do(SetStatus, U64(256)) }})
}
