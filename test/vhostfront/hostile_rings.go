package vhostfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// vringCases set queues up in ways that they must not be.
func vringCases() []Case {
	var cs []Case
	refused := func(stage Stage, name string, request uint32, payload []byte) {
		cs = append(cs, Case{name, stage, Refused, func(f *Front) error { return f.Do(request, payload) }})
	}
	for _, n := range []uint32{0, 3, 127, 129, 1025, 2048, 32768, 65536, math.MaxUint32} {
		refused(Negotiated, fmt.Sprintf("queue of %d entries", n), SetVringNum, U32s(0, n))
	}
	for _, i := range []uint32{2, 255, 65536, math.MaxUint32} {
		refused(Running, fmt.Sprintf("SET_VRING_NUM of queue %d", i), SetVringNum, U32s(i, 128))
		refused(Running, fmt.Sprintf("SET_VRING_BASE of queue %d", i), SetVringBase, U32s(i, 0))
		refused(Running, fmt.Sprintf("SET_VRING_ENABLE of queue %d", i), SetVringEnable, U32s(i, 1))
		refused(Running, fmt.Sprintf("SET_VRING_ADDR of queue %d", i), SetVringAddr, append(U32s(i, 0), make([]byte, 32)...))
		cs = append(cs, Case{fmt.Sprintf("GET_VRING_BASE of queue %d", i), Running, Closed, raw(Message(GetVringBase, Version, U32s(i, 0)))})
		for name, request := range map[string]uint32{"KICK": SetVringKick, "CALL": SetVringCall, "ERR": SetVringErr} {
			cs = append(cs, Case{fmt.Sprintf("SET_VRING_%s of queue %d", name, i), Running, Refused, func(f *Front) error {
				return f.Do(request, U64(uint64(i)), f.Queues[1].KickFD)
			}})
		}
	}
	for name, request := range map[string]uint32{"KICK": SetVringKick, "CALL": SetVringCall, "ERR": SetVringErr} {
		cs = append(cs, Case{fmt.Sprintf("SET_VRING_%s with and without a descriptor", name), Running, Refused, func(f *Front) error {
			return f.Do(request, U64(1<<8), f.Queues[1].KickFD)
		}})
	}
	refused(Running, "no kick descriptor", SetVringKick, U64(1<<8))
	refused(Running, "size of a running queue", SetVringNum, U32s(0, 64))
	refused(Running, "base of a running queue", SetVringBase, U32s(0, 1))
	refused(Negotiated, "base of 65536", SetVringBase, U32s(0, 65536))
	refused(Running, "enable 2", SetVringEnable, U32s(0, 2))
	for name, a := range map[string][4]uint64{
		"outside of memory":         {0, 0, 0, 0},
		"at the end of memory":      {UserBase + 1<<20 + 24576, UserBase + 1<<20 + 24576, UserBase + 1<<20 + 24576, 0},
		"that wraps":                {math.MaxUint64 - 15, math.MaxUint64 - 3, math.MaxUint64 - 1, 0},
		"across the end":            {UserBase + 1<<20 + 24576 - 16, UserBase, UserBase, 0},
		"of odd descriptors":        {UserBase + 8, UserBase + 4096, UserBase + 8192, 0},
		"of an odd used ring":       {UserBase, UserBase + 4098, UserBase + 8192, 0},
		"of an odd available ring":  {UserBase, UserBase + 4096, UserBase + 8193, 0},
		"at guest addresses":        {GuestBase, GuestBase + 4096, GuestBase + 8192, 0},
		"with the used ring abroad": {UserBase, 4096, UserBase + 8192, 0},
	} {
		p := append(U32s(0, 0), U64s(a[:]...)...)
		refused(Running, "ring "+name, SetVringAddr, p)
		cs = append(cs, Case{"first ring " + name, Negotiated, Refused, func(f *Front) error {
			if err := f.Share(); err != nil {
				return err
			}
			_ = f.Do(SetVringNum, U32s(0, 128))
			if err := f.Do(SetVringAddr, p); err != nil {
				return err
			}
			return f.Do(SetVringKick, U64(0), f.Queues[0].KickFD)
		}})
	}
	refused(Running, "flags of an address", SetVringAddr, append(U32s(0, 2), U64s(UserBase, UserBase+4096, UserBase+8192, 0)...))
	return append(cs,
		Case{"the rings of two queues in one place", Running, Any, func(f *Front) error {
			p := f.Queues[0].Addr()
			binary.LittleEndian.PutUint32(p, 1)
			if err := f.Do(SetVringAddr, p); err != nil {
				return err
			}
			_, err := f.One(f.Queues[0], BlkFlushOp, 0, nil, nil)
			if err2 := f.Do(SetVringAddr, f.Queues[1].Addr()); err2 != nil {
				return err2
			}
			_ = err
			if _, err := f.Stop(f.Queues[1]); err != nil {
				return err
			}
			f.Queues[1].Clear()
			return f.Start(f.Queues[1])
		}},
		Case{"a call descriptor that blocks", Running, Any, blockCall},
		Case{"the kick descriptor as call descriptor", Running, Any, func(f *Front) error {
			q := f.Queues[0]
			if err := f.Do(SetVringCall, U64(0), q.KickFD); err != nil {
				return err
			}
			f.Header(q, BlkFlushOp, 0)
			h, _, s := f.Parts(q, 0, true)
			q.Chain(0, h, s)
			q.Post(0)
			q.Kick()
			if !wait(func() bool { return q.UsedIndex() != q.lastUsed }) {
				return errors.New("no answer")
			}
			return nil
		}},
		Case{"stop of a queue that does not run", Running, Any, func(f *Front) error {
			_, err := f.Stop(f.Queues[0])
			_, err2 := f.Stop(f.Queues[0])
			return errors.Join(err, err2)
		}},
	)
}

// blockCall fills the call descriptor up, makes writing to it wait, and stops the
// queue.
func blockCall(f *Front) error {
	q := f.Queues[0]
	q.Called()
	full := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if _, err := unix.Write(q.CallFD, full); err != nil {
		return err
	}
	if err := unix.SetNonblock(q.CallFD, false); err != nil {
		return err
	}
	f.Header(q, BlkFlushOp, 0)
	h, _, s := f.Parts(q, 0, true)
	q.Chain(0, h, s)
	*q.UsedEvent = q.lastUsed
	q.Post(0)
	q.Kick()
	time.Sleep(20 * time.Millisecond)
	_, err := f.Stop(q)
	return err
}

// attack is a ring case: a change of queue 0, and a kick.
func attack(name string, want Outcome, change func(f *Front, q *Queue)) Case {
	return Case{name, Running, want, func(f *Front) error {
		q := f.Queues[0]
		change(f, q)
		q.Kick()
		q.Notify()
		return nil
	}}
}

// ringCases write nonsense into the rings themselves.
func ringCases() []Case {
	var cs []Case
	for _, head := range []uint16{128, 129, 255, 32768, 65535} {
		cs = append(cs, attack(fmt.Sprintf("head %d", head), Broken, func(_ *Front, q *Queue) { q.Post(head) }))
	}
	for _, step := range []uint16{129, 130, 256, 32767, 32768, 65534, 65535} {
		cs = append(cs, attack(fmt.Sprintf("index jumps by %d", step), Broken, func(_ *Front, q *Queue) { q.SetIndex(q.next + step) }))
	}
	return append(cs,
		attack("128 requests of nothing", Broken, func(_ *Front, q *Queue) { q.SetIndex(q.next + 128) }),
		attack("one head 128 times", Any, func(f *Front, q *Queue) {
			f.Header(q, BlkIn, 0)
			h, d, s := f.Parts(q, 4096, true)
			q.Chain(0, h, d, s)
			for range 128 {
				q.Post(0)
			}
		}),
		attack("used ring of noise", Any, func(f *Front, q *Queue) {
			for i := range q.Used {
				q.Used[i] = UsedElem{math.MaxUint32, math.MaxUint32}
			}
			atomic.StoreUint32(q.UsedHead, math.MaxUint32)
			*q.KickEvent = 12345
		}),
		attack("available ring's flags", Any, func(_ *Front, q *Queue) { q.change(0xffff0000, 0xffff) }),
		attack("used event of noise", Any, func(_ *Front, q *Queue) { *q.UsedEvent = 54321 }),
		Case{"a thousand kicks for nothing", Running, Any, func(f *Front) error {
			for range 1000 {
				f.Queues[0].Notify()
			}
			return f.Works(f.Queues[0])
		}},
	)
}

// chainCases are requests whose descriptors are out of order.
func chainCases() []Case {
	var cs []Case
	// Each of the three descriptors of a good request is replaced by a bad one.
	for name, d := range map[string]Desc{
		"at address 0":              {Addr: 0, Len: 16},
		"below memory":              {Addr: GuestBase - 16, Len: 16},
		"across the start":          {Addr: GuestBase - 8, Len: 16},
		"at the end":                {Addr: GuestBase + 1<<20 + 24576, Len: 16},
		"across the end":            {Addr: GuestBase + 1<<20 + 24576 - 8, Len: 16},
		"at the last address":       {Addr: math.MaxUint64, Len: 1},
		"that wraps":                {Addr: math.MaxUint64 - 7, Len: 16},
		"of 4 GiB":                  {Addr: GuestBase, Len: math.MaxUint32},
		"of nothing":                {Addr: GuestBase + 8192, Len: 0},
		"of nothing, nowhere":       {Addr: 0, Len: 0},
		"at a user address":         {Addr: UserBase, Len: 16},
		"that is indirect":          {Addr: GuestBase + 8192, Len: 16, Flags: Indirect},
		"an empty indirect table":   {Addr: GuestBase + 8192, Len: 0, Flags: Indirect},
		"an indirect table at 0":    {Addr: 0, Len: 16, Flags: Indirect},
		"half an indirect table":    {Addr: GuestBase + 8192, Len: 24, Flags: Indirect},
		"a giant indirect table":    {Addr: GuestBase, Len: 1 << 20, Flags: Indirect},
		"an indirect table, 4 GiB":  {Addr: GuestBase, Len: math.MaxUint32 &^ 15, Flags: Indirect},
		"an indirect table, wraps":  {Addr: math.MaxUint64 - 15, Len: 32, Flags: Indirect},
		"an indirect table at end":  {Addr: GuestBase + 1<<20 + 24576 - 16, Len: 32, Flags: Indirect},
		"across the end, one byte":  {Addr: GuestBase + 1<<20 + 24576 - 15, Len: 16},
		"just below 4 GiB, nowhere": {Addr: 1<<32 - 16, Len: 16},
	} {
		for part := range 3 {
			for _, write := range []bool{false, true} {
				where := []string{"header", "data", "status"}[part]
				cs = append(cs, attack(fmt.Sprintf("%s %s, write %v", where, name, write), Broken, func(f *Front, q *Queue) {
					f.Header(q, BlkIn, 0)
					h, data, s := f.Parts(q, 4096, true)
					ds := []Desc{h, data, s}
					flags := ds[part].Flags
					ds[part] = d
					ds[part].Flags |= flags
					if write && part == 1 {
						f.Header(q, BlkOut, 0)
						ds[part].Flags &^= Write
					}
					q.Chain(0, ds...)
					q.Post(0)
				}))
			}
		}
	}
	bad := func(name string, want Outcome, change func(f *Front, q *Queue, h, d, s Desc)) {
		cs = append(cs, attack(name, want, func(f *Front, q *Queue) {
			f.Header(q, BlkIn, 0)
			h, d, s := f.Parts(q, 4096, true)
			change(f, q, h, d, s)
			q.Post(0)
		}))
	}
	for _, next := range []uint16{128, 129, 32768, 65535} {
		bad(fmt.Sprintf("next %d", next), Broken, func(_ *Front, q *Queue, h, d, s Desc) {
			q.Chain(0, h, d, s)
			q.Desc[1].Next = next
		})
	}
	bad("a loop of one", Broken, func(_ *Front, q *Queue, h, _, _ Desc) {
		q.Desc[0] = h
		q.Desc[0].Flags |= Next
	})
	bad("a loop of two", Broken, func(_ *Front, q *Queue, h, d, s Desc) {
		q.Chain(0, h, d, s)
		q.Desc[1].Next = 1
	})
	bad("a loop of writable ones", Broken, func(_ *Front, q *Queue, h, d, s Desc) {
		q.Chain(0, h, d, s)
		q.Desc[2].Flags |= Next
		q.Desc[2].Next = 1
	})
	bad("a loop of all", Broken, func(_ *Front, q *Queue, h, _, _ Desc) {
		for i := range q.Desc {
			q.Desc[i] = h
			q.Desc[i].Flags |= Next
			q.Desc[i].Next = uint16((i + 1) % q.Size)
		}
	})
	bad("nothing writable", Broken, func(_ *Front, q *Queue, h, d, _ Desc) { d.Flags = 0; q.Chain(0, h, d) })
	bad("nothing readable", Broken, func(_ *Front, q *Queue, _, d, s Desc) { q.Chain(0, d, s) })
	bad("a writable header", Broken, func(_ *Front, q *Queue, h, d, s Desc) { h.Flags |= Write; q.Chain(0, h, d, s) })
	bad("a readable status", Broken, func(_ *Front, q *Queue, h, d, s Desc) { s.Flags = 0; q.Chain(0, h, d, s) })
	bad("only a status", Broken, func(_ *Front, q *Queue, _, _, s Desc) { q.Chain(0, s) })
	bad("only a header", Broken, func(_ *Front, q *Queue, h, _, _ Desc) { q.Chain(0, h) })
	for n := uint32(1); n < 16; n += 2 {
		bad(fmt.Sprintf("a header of %d bytes", n), Broken, func(_ *Front, q *Queue, h, d, s Desc) { h.Len = n; q.Chain(0, h, d, s) })
	}
	overlapping := map[string]int{"the header": 0, "the status": 64, "itself": 4096}
	for name, at := range overlapping {
		bad("data over "+name, Any, func(f *Front, q *Queue, h, d, s Desc) {
			d.Addr = f.Guest(f.Area(q) + at)
			q.Chain(0, h, d, d, s)
		})
	}
	for name, at := range map[string]func(q *Queue) int{
		"descriptors":    func(q *Queue) int { return q.DescAt },
		"available ring": func(q *Queue) int { return q.AvailAt },
		"used ring":      func(q *Queue) int { return q.UsedAt },
	} {
		bad("data over the "+name, Any, func(f *Front, q *Queue, h, d, s Desc) {
			d.Addr, d.Len = f.Guest(at(q)), 1024
			q.Chain(0, h, d, s)
		})
		bad("status over the "+name, Any, func(f *Front, q *Queue, h, d, s Desc) {
			s.Addr = f.Guest(at(q))
			q.Chain(0, h, d, s)
		})
		bad("header over the "+name, Any, func(f *Front, q *Queue, h, d, s Desc) {
			h.Addr = f.Guest(at(q))
			q.Chain(0, h, d, s)
		})
	}
	return cs
}

// indirectCases are tables of descriptors that are out of order.
func indirectCases() []Case {
	var cs []Case
	bad := func(name string, want Outcome, change func(f *Front, q *Queue, table []Desc)) {
		cs = append(cs, attack(name, want, func(f *Front, q *Queue) {
			f.Header(q, BlkIn, 0)
			h, d, s := f.Parts(q, 4096, true)
			at := f.Area(q) + 8192
			table := descs(f.Mem[at:][:16*2048])
			h.Flags, h.Next, d.Flags, d.Next = Next, 1, Next|Write, 2
			table[0], table[1], table[2] = h, d, s
			q.Desc[0] = Desc{Addr: f.Guest(at), Len: 48, Flags: Indirect}
			change(f, q, table)
			q.Post(0)
		}))
	}
	bad("a table with NEXT", Broken, func(_ *Front, q *Queue, _ []Desc) { q.Desc[0].Flags |= Next })
	for _, n := range []uint32{0, 1, 8, 15, 17, 40, 47} {
		bad(fmt.Sprintf("a table of %d bytes", n), Broken, func(_ *Front, q *Queue, _ []Desc) { q.Desc[0].Len = n })
	}
	bad("a table that ends too early", Broken, func(_ *Front, q *Queue, _ []Desc) { q.Desc[0].Len = 32 })
	bad("a table of 2048", Broken, func(_ *Front, q *Queue, _ []Desc) { q.Desc[0].Len = 2048 * 16 })
	bad("a table in a table", Broken, func(f *Front, q *Queue, t []Desc) { t[0] = q.Desc[0] })
	bad("a table at the end of a table", Broken, func(f *Front, q *Queue, t []Desc) { t[2] = q.Desc[0] })
	bad("next out of the table", Broken, func(_ *Front, _ *Queue, t []Desc) { t[1].Next = 3 })
	bad("next far out of the table", Broken, func(_ *Front, _ *Queue, t []Desc) { t[1].Next = 65535 })
	bad("a loop in a table", Broken, func(_ *Front, _ *Queue, t []Desc) { t[1].Next = 1 })
	bad("a loop to the start of a table", Broken, func(_ *Front, _ *Queue, t []Desc) { t[2].Flags |= Next; t[2].Next = 0 })
	bad("1024 pieces that overlap", Any, func(f *Front, q *Queue, t []Desc) {
		last := t[2]
		for i := 1; i < 1023; i++ {
			t[i] = Desc{Addr: f.Guest(f.DataAt), Len: 1 << 20, Flags: Next | Write, Next: uint16(i + 1)}
		}
		t[1023] = last
		q.Desc[0].Len = 1024 * 16
	})
	bad("1025 pieces", Broken, func(f *Front, q *Queue, t []Desc) {
		last := t[2]
		for i := 1; i < 1024; i++ {
			t[i] = Desc{Addr: f.Guest(f.DataAt), Len: 512, Flags: Next | Write, Next: uint16(i + 1)}
		}
		t[1024] = last
		q.Desc[0].Len = 1025 * 16
	})
	cs = append(cs, Case{"a table that was not negotiated", Negotiated, Any, func(f *Front) error {
		if err := f.Do(SetFeatures, U64(f.Features&^RingIndirect)); err != nil {
			return err
		}
		if err := f.Share(); err != nil {
			return err
		}
		q := f.Queues[0]
		if err := f.Start(q); err != nil {
			return err
		}
		q.Desc[0] = Desc{Addr: f.Guest(f.Area(q)), Len: 48, Flags: Indirect}
		q.Post(0)
		q.Kick()
		if !wait(q.Broken) {
			return errors.New("the queue was not given up")
		}
		return nil
	}})
	return cs
}

// requestCases are whole requests that ask for what there is not.
func requestCases() []Case {
	var cs []Case
	add := func(name string, want Outcome, op uint32, sector uint64, in, out int, payload []byte) {
		cs = append(cs, attack(name, want, func(f *Front, q *Queue) {
			f.Header(q, op, sector)
			h, d, s := f.Parts(q, in+out, in > 0)
			copy(f.Mem[f.Area(q)+4096:], payload)
			if in+out > 0 {
				q.Chain(0, h, d, s)
			} else {
				q.Chain(0, h, s)
			}
			q.Post(0)
		}))
	}
	for _, op := range []uint32{2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 24, 26, 255, 256, 1 << 31, math.MaxUint32} {
		add(fmt.Sprintf("request of type %d", op), Unsupp, op, 0, 512, 0, nil)
	}
	for _, sector := range []uint64{1 << 20, 1 << 32, 1 << 53, 1<<54 - 1, 1<<55 + 1, 1 << 63, math.MaxUint64, math.MaxUint64 - 7} {
		add(fmt.Sprintf("read at sector %d", sector), Failed, BlkIn, sector, 4096, 0, nil)
		add(fmt.Sprintf("write at sector %d", sector), Failed, BlkOut, sector, 0, 4096, nil)
		segment := append(U64s(sector), U32s(8, 0)...)
		add(fmt.Sprintf("discard at sector %d", sector), Failed, BlkDiscardOp, 0, 0, 16, segment)
		add(fmt.Sprintf("zeroes at sector %d", sector), Failed, BlkWriteZeroOp, 0, 0, 16, segment)
	}
	for _, n := range []int{1, 511, 513, 4095, 4097} {
		add(fmt.Sprintf("read of %d bytes", n), Failed, BlkIn, 0, n, 0, nil)
		add(fmt.Sprintf("write of %d bytes", n), Failed, BlkOut, 0, 0, n, nil)
	}
	for name, op := range map[string]uint32{"discard": BlkDiscardOp, "zeroes": BlkWriteZeroOp} {
		for _, n := range []int{0, 1, 8, 15} {
			add(fmt.Sprintf("%s of %d bytes", name, n), Failed, op, 0, 0, n, make([]byte, n))
		}
		add(name+" of two segments", Unsupp, op, 0, 0, 32, make([]byte, 32))
		add(name+" of 2 TiB", Failed, op, 0, 0, 16, append(U64s(0), U32s(math.MaxUint32, 0)...))
		for _, flags := range []uint32{2, 4, 1 << 31} {
			add(fmt.Sprintf("%s with flags %#x", name, flags), Unsupp, op, 0, 0, 16, append(U64s(0), U32s(8, flags)...))
		}
	}
	add("discard that unmaps", Unsupp, BlkDiscardOp, 0, 0, 16, append(U64s(0), U32s(8, 1)...))
	return cs
}

// racyCases change rings while they are being read.
func racyCases() []Case {
	var cs []Case
	add := func(name string, change func(f *Front, q *Queue, i uint32)) {
		cs = append(cs, Case{"changing " + name, Running, Any, func(f *Front) error {
			q := f.Queues[0]
			f.Header(q, BlkIn, 0)
			h, d, s := f.Parts(q, 4096, true)
			q.Chain(0, h, d, s)
			for i, end := uint32(0), time.Now().Add(20*time.Millisecond); time.Now().Before(end); i++ {
				change(f, q, i)
				if i%8 == 0 {
					q.Post(0)
					q.SetIndex(q.next)
					q.Notify()
				}
			}
			return nil
		}})
	}
	add("a length", func(_ *Front, q *Queue, i uint32) { q.Desc[1].Len = i * 512 })
	add("an address", func(f *Front, q *Queue, i uint32) { q.Desc[1].Addr = GuestBase + uint64(i)<<10 })
	add("flags", func(_ *Front, q *Queue, i uint32) { q.Desc[i%3].Flags = uint16(i) & 7 })
	add("next", func(_ *Front, q *Queue, i uint32) { q.Desc[i%2].Next = uint16(i) })
	add("a header", func(f *Front, q *Queue, i uint32) { f.Header(q, i%16, uint64(i)) })
	add("the index", func(_ *Front, q *Queue, i uint32) { q.SetIndex(uint16(i * 2654435761 >> 16)) })
	add("heads", func(_ *Front, q *Queue, i uint32) { q.Avail[i%128] = uint16(i) })
	add("everything", func(f *Front, q *Queue, i uint32) {
		w := words(f.Mem[q.DescAt:q.UsedAt])
		w[i*2654435761>>8%uint32(len(w))] ^= 1 << (i % 32)
	})
	return cs
}
