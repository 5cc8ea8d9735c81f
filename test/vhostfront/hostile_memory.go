package vhostfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// memoryCases share memory that overlaps, wraps, is not there or goes away.
func memoryCases() []Case {
	var cs []Case
	const page, top = 4096, math.MaxUint64
	for _, r := range []struct {
		name                      string
		guest, size, user, offset uint64
	}{
		{"nothing", 0, 0, 0, 0},
		{"a page beyond the file", 0, page, 0, 1 << 30},
		{"more than the file", 0, 1 << 30, 0, 0},
		{"across the file's end", 0, 1 << 20, 0, 1 << 20},
		{"all", 0, top, 0, 0},
		{"more than can be", 0, 1 << 63, 0, 0},
		{"an offset that wraps", 0, page, 0, top - 4095},
		{"a guest address that wraps", top - 4094, page, 0, 0},
		{"a user address that wraps", 0, page, top - 4094, 0},
		{"an odd guest address", 1, page, 0, 0},
		{"an odd offset", 0, page, 0, 2},
		{"the same guest address", GuestBase, page, 0, 0},
		{"the last guest page", GuestBase + page, page, 0, 0},
		{"a guest address within", GuestBase - page, 2 * page, 0, 0},
		{"the same user address", 0, page, UserBase, 0},
		{"a user address within", 0, 2 * page, UserBase - page, 0},
		{"all around", GuestBase - page, 1<<20 + 2*page, 0, 0},
	} {
		cs = append(cs, Case{"ADD_MEM_REG: " + r.name, Running, Refused, func(f *Front) error {
			return f.Do(AddMemReg, Region(r.guest, r.size, r.user, r.offset), f.MemFD)
		}}, Case{"SET_MEM_TABLE: " + r.name, Running, Refused, func(f *Front) error {
			p := append(U32s(2, 0), U64s(GuestBase, 1<<20, UserBase, 0, r.guest, r.size, r.user, r.offset)...)
			return f.Do(SetMemTable, p, f.MemFD, f.MemFD)
		}}, Case{"REM_MEM_REG: " + r.name, Running, Refused, func(f *Front) error {
			return f.Do(RemMemReg, Region(r.guest, r.size, r.user, r.offset))
		}})
	}
	for _, n := range []uint32{0, 1, 3, 8, 9, math.MaxUint32} {
		cs = append(cs, Case{fmt.Sprintf("SET_MEM_TABLE of 2 that says %d", n), Running, Refused, func(f *Front) error {
			return f.Do(SetMemTable, append(U32s(n, 0), make([]byte, 64)...), f.MemFD, f.MemFD)
		}})
	}
	return append(cs,
		Case{"memory without the rings", Running, Refused, func(f *Front) error {
			return f.Do(SetMemTable, append(U32s(1, 0), U64s(0, 4096, 0, 0)...), f.MemFD)
		}},
		Case{"no memory", Running, Refused, func(f *Front) error { return f.Do(SetMemTable, U32s(0, 0)) }},
		Case{"the memory of the rings removed", Running, Refused, func(f *Front) error {
			return f.Do(RemMemReg, Region(GuestBase, uint64(len(f.Mem)), UserBase, 0))
		}},
		Case{"too many regions", Running, Refused, func(f *Front) error {
			for i := range uint64(1000) {
				if err := f.Do(AddMemReg, Region(1<<40+i*8192, 4096, i*8192, 0), f.MemFD); err != nil {
					return err
				}
			}
			return nil
		}},
		Case{"memory shrinks: only the data", Running, Any, shrinkData},
		shrink("all of it", func(f *Front) int { return 0 }),
		shrink("down to the rings", func(f *Front) int { return f.DataAt }),
		shrink("down to the first ring's descriptors", func(f *Front) int { return 4096 }),
	)
}

// shrink takes memory away that is in use, and sends requests that need it.
func shrink(name string, to func(*Front) int) Case {
	return Case{"memory shrinks: " + name, Running, Any, func(f *Front) error {
		q := f.Queues[0]
		f.Header(q, BlkIn, 0)
		h, d, s := f.Parts(q, 4096, true)
		q.Chain(0, h, d, s)
		q.Post(0)
		q.SetIndex(q.next)
		if err := unix.Ftruncate(f.MemFD, int64(to(f))); err != nil {
			return err
		}
		q.Notify()
		f.Queues[1].Notify()
		if !wait(q.Broken) {
			return errors.New("the queue was not given up")
		}
		return f.Again(q)
	}}
}

// shrinkData takes away what requests carry, and nothing else: the back end finds
// out in the middle of its work on it.
func shrinkData(f *Front) error {
	q := f.Queues[0]
	for _, op := range []uint32{BlkIn, BlkOut} {
		f.Header(q, op, 0)
		h, d, s := f.Parts(q, 4096, op == BlkIn)
		q.Chain(0, h, d, s)
		if err := unix.Ftruncate(f.MemFD, int64(f.Area(q)+4096)); err != nil {
			return err
		}
		q.Post(0)
		q.Kick()
		if err := q.await(0); err != nil {
			return err
		}
		if status := f.Mem[f.Area(q)+64]; status != 1 {
			return fmt.Errorf("request %d: status %d", op, status)
		}
		if err := unix.Ftruncate(f.MemFD, int64(len(f.Mem))); err != nil {
			return err
		}
	}
	return f.Works(q)
}

// sharedCases are about the memory that the front end keeps for the back end.
func sharedCases() []Case {
	var cs []Case
	for _, c := range []struct{ queues, size uint16 }{{0, 128}, {1, 0}, {3, 128}, {65535, 128}, {1, 1025}, {1, 65535}, {0, 0}} {
		desc := func(bytes uint64) []byte {
			p := U64s(bytes, 0)
			p = binary.LittleEndian.AppendUint16(p, c.queues)
			return binary.LittleEndian.AppendUint16(p, c.size)
		}
		cs = append(cs, Case{fmt.Sprintf("GET_INFLIGHT_FD of %d queues of %d", c.queues, c.size), Negotiated, Refused, func(f *Front) error {
			return f.Do(GetInflightFD, desc(0))
		}}, Case{fmt.Sprintf("SET_INFLIGHT_FD of %d queues of %d", c.queues, c.size), Negotiated, Refused, func(f *Front) error {
			return f.Do(SetInflightFD, desc(1<<20), f.MemFD)
		}})
	}
	for _, c := range []struct {
		name         string
		size, offset uint64
	}{{"too little", 64, 0}, {"beyond the file", 1 << 40, 0}, {"at an odd place", 8192, 4}, {"that wraps", 8192, math.MaxUint64 - 4095}, {"of everything", math.MaxUint64, 0}, {"of odd size", 8193, 0}} {
		cs = append(cs, Case{"SET_INFLIGHT_FD: " + c.name, Negotiated, Refused, func(f *Front) error {
			return f.Do(SetInflightFD, append(U64s(c.size, c.offset), 2, 0, 128, 0), f.MemFD)
		}})
		if c.size != 64 {
			cs = append(cs, Case{"SET_LOG_BASE: " + c.name, Negotiated, Closed, func(f *Front) error {
				_ = f.Conn.Send(SetLogBase, 0, U64s(c.size, c.offset), f.MemFD)
				return nil
			}})
		}
	}
	cs = append(cs, Case{"SET_INFLIGHT_FD while running", Running, Refused, func(f *Front) error {
		return f.Do(SetInflightFD, f.inflight.desc, f.inflight.fd)
	}}, Case{"inflight memory that shrinks", Running, Broken, shrinkInflight}, Case{"log of a page", Running, Broken, func(f *Front) error {
		return f.logAndRead(4096)
	}}, Case{"log that shrinks", Running, Broken, func(f *Front) error {
		return f.logAndRead(0)
	}})
	for name, change := range map[string]func(b []byte){
		"of another version":   func(b []byte) { b[8] = 2 },
		"a batch out of range": func(b []byte) { b[8], b[12], b[13], b[14] = 1, 0xff, 0xff, 0xff },
		"a batch in a loop":    func(b []byte) { b[8], b[14], b[15] = 1, 0, 0x80 },
		"everything under way": func(b []byte) {
			b[8] = 1
			for i := range 128 {
				b[16+16*i] = 1
			}
		},
		"noise": func(b []byte) {
			for i := range b {
				b[i] = byte(i*i + i>>3)
			}
		},
	} {
		cs = append(cs, Case{"inflight memory: " + name, Running, Broken, func(f *Front) error { return f.poison(change) }})
	}
	return cs
}

// shrinkInflight gives the back end memory for its notes and takes it away again.
func shrinkInflight(f *Front) error {
	fd, err := Memfd(1<<20, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, q := range f.Queues {
		if _, err := f.Stop(q); err != nil {
			return err
		}
	}
	if err := f.Do(SetInflightFD, append(U64s(1<<20, 0), f.inflight.desc[16:20]...), fd); err != nil {
		return err
	}
	for _, q := range f.Queues {
		if err := f.Start(q); err != nil {
			return err
		}
	}
	q := f.Queues[0]
	if err := f.Works(q); err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		return err
	}
	f.Header(q, BlkFlushOp, 0)
	h, _, s := f.Parts(q, 0, true)
	q.Chain(0, h, s)
	q.Post(0)
	q.Kick()
	if !wait(q.Broken) {
		return errors.New("the queue was not given up")
	}
	// So is the other one, which shares the memory.
	if err := f.Again(q); err != nil {
		return err
	}
	return q.breakAgain()
}

// logAndRead switches logging on with a log that is too small, and reads.
func (f *Front) logAndRead(keep int) error {
	fd, err := Memfd(1<<20, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	size := uint64(1 << 20)
	if keep > 0 {
		size = uint64(keep)
	}
	if _, _, err := f.Conn.Ask(SetLogBase, U64s(size, 0), fd); err != nil {
		return err
	}
	if err := f.Do(SetFeatures, U64(f.Features|LogAll)); err != nil {
		return err
	}
	if keep == 0 {
		if err := unix.Ftruncate(fd, 0); err != nil {
			return err
		}
	}
	q := f.Queues[0]
	f.Header(q, BlkIn, 0)
	h, d, s := f.Parts(q, 4096, true)
	q.Chain(0, h, d, s)
	q.Post(0)
	q.Kick()
	if !wait(q.Broken) {
		return errors.New("the queue was not given up")
	}
	if err := f.Do(SetFeatures, U64(f.Features)); err != nil {
		return err
	}
	return q.breakAgain()
}

// breakAgain signals once more what was taken note of.
func (q *Queue) breakAgain() error {
	_, err := unix.Write(q.ErrFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// poison stops the queues, changes queue 0's record of requests under way, and
// starts it.
func (f *Front) poison(change func([]byte)) error {
	q := f.Queues[0]
	for _, q := range f.Queues {
		if _, err := f.Stop(q); err != nil {
			return err
		}
	}
	size := binary.LittleEndian.Uint64(f.inflight.desc)
	b, err := unix.Mmap(f.inflight.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	change(b[:16+16*q.Size])
	// Nothing that could be done is in the descriptors.
	clear(q.Desc)
	if err := f.Start(q); err != nil {
		return err
	}
	return f.Start(f.Queues[1])
}
