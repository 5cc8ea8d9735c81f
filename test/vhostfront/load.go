package vhostfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Load says what Run sends.
type Load struct {
	Block      int  // bytes of a request, a multiple of 512; 0 is 4096
	Depth      int  // requests at a time on each queue; 0 is 32
	WritePart  int  // per cent of the requests that write
	Sequential bool // else at random
	Verify     bool // blocks are filled with what they should be, and compared
	Flush      int  // a flush after so many requests of a queue; 0 is none
	Duration   time.Duration
	Spin       time.Duration // how long a queue is looked at before sleeping
	PID        int           // the back end's, whose CPU time is taken; 0: not
	Seed       uint64
	Span       int64 // bytes of the disk that are used; 0: all
}

// Result is what Run measured.
type Result struct {
	Requests, Errors uint64
	Elapsed          time.Duration
	CPU              time.Duration // of the back end
	Kicks, Sleeps    int
	Latency          Histogram
}

// IOPS is requests per second.
func (r *Result) IOPS() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// CPUPerRequest is the back end's CPU time for each request.
func (r *Result) CPUPerRequest() time.Duration {
	if r.Requests == 0 {
		return 0
	}
	return r.CPU / time.Duration(r.Requests)
}

// ErrContent is returned when a block is not what was written there.
var ErrContent = errors.New("vhostfront: wrong data")

// Run loads all queues of f, each on a goroutine of its own, until the time is over,
// and waits for the last answer.
func (f *Front) Run(l Load) (*Result, error) {
	if l.Block == 0 {
		l.Block = 4096
	}
	if l.Depth == 0 {
		l.Depth = 32
	}
	if l.Span == 0 || l.Span > f.Config.Capacity {
		l.Span = f.Config.Capacity
	}
	if 3*l.Depth > f.o.QueueSize || len(f.Queues)*l.Depth*(l.Block+64) > f.o.Memory {
		return nil, errors.New("vhostfront: the queue or its memory is too small for this depth")
	}
	if l.Span/int64(l.Block)/int64(len(f.Queues)) < int64(l.Depth) {
		return nil, errors.New("vhostfront: the disk is too small for this depth")
	}
	cpu, err := CPUTime(l.PID)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	runs := make([]*loadRun, len(f.Queues))
	var wg sync.WaitGroup
	for i := range runs {
		runs[i] = f.newRun(i, l, began.Add(l.Duration))
		wg.Go(runs[i].run)
	}
	wg.Wait()
	r := &Result{Elapsed: time.Since(began)}
	after, err := CPUTime(l.PID)
	r.CPU = after - cpu
	for _, x := range runs {
		r.Requests += x.requests
		r.Errors += x.errors
		r.Kicks += x.q.Kicks
		r.Sleeps += x.q.Sleeps
		r.Latency.Add(&x.latency)
		err = errors.Join(err, x.err)
	}
	return r, err
}

// CPUTime returns the CPU time that a process has used. It is counted in steps of
// 10 ms.
func CPUTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("vhostfront: /proc/%d/stat is not understood", pid)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	sys, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+sys) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// loadRun loads one queue with the blocks first to first+blocks of the disk.
type loadRun struct {
	Load
	f      *Front
	q      *Queue
	end    time.Time
	first  int64
	blocks int64
	at     int64 // sequential
	rng    uint64
	base   int // of the slots in Mem

	slots    []slot
	version  []uint32 // Verify: of each block; 0: not known
	taken    []uint64 // Verify: a bit for each block that is under way
	since    int
	requests uint64
	errors   uint64
	err      error
	latency  Histogram
}

type slot struct {
	began int64
	block int64
	write bool
	flush bool
}

func (f *Front) newRun(i int, l Load, end time.Time) *loadRun {
	r := &loadRun{Load: l, f: f, q: f.Queues[i], end: end, slots: make([]slot, l.Depth)}
	r.q.Kicks, r.q.Sleeps = 0, 0
	r.blocks = l.Span / int64(l.Block) / int64(len(f.Queues))
	r.first = int64(i) * r.blocks
	r.rng = l.Seed*0x9E3779B97F4A7C15 + uint64(i) + 1
	r.base = f.DataAt + i*l.Depth*(l.Block+64)
	if l.Verify {
		r.version = make([]uint32, r.blocks)
		r.taken = make([]uint64, (r.blocks+63)/64)
	}
	for s := range r.slots {
		head := uint16(3 * s)
		at, data := r.place(s)
		r.q.Desc[head] = Desc{f.Guest(at), 16, Next, head + 1}
		r.q.Desc[head+1] = Desc{f.Guest(data), uint32(l.Block), Next, head + 2}
		r.q.Desc[head+2] = Desc{f.Guest(at + 16), 1, Write, 0}
	}
	return r
}

// place returns where a slot's header and data are.
func (r *loadRun) place(s int) (header, data int) {
	return r.base + 64*s, r.base + 64*r.Depth + s*r.Block
}

var epoch = time.Now()

func nanotime() int64 { return int64(time.Since(epoch)) }

func (r *loadRun) run() {
	now := nanotime()
	end := now + int64(time.Until(r.end))
	for s := range r.slots {
		r.post(s, now)
	}
	r.q.Kick()
	pending := len(r.slots)
	last := now
	for pending > 0 {
		n := r.q.Reap(func(head uint16, _ uint32) {
			s := int(head / 3)
			r.check(s, now)
			if now < end && r.err == nil {
				r.post(s, now)
			} else {
				pending--
			}
		})
		if n > 0 {
			r.q.Kick()
			now = nanotime()
			last = now
			continue
		}
		if !r.q.Wait(r.Spin, time.Second) && nanotime()-last > int64(time.Minute) {
			r.err = errors.Join(r.err, errors.New("vhostfront: no answer in a minute"))
			return
		}
		now = nanotime()
	}
}

func (r *loadRun) random() uint64 {
	r.rng ^= r.rng << 13
	r.rng ^= r.rng >> 7
	r.rng ^= r.rng << 17
	return r.rng
}

// post sends the next request from slot s.
func (r *loadRun) post(s int, now int64) {
	x := &r.slots[s]
	x.began = now
	at, data := r.place(s)
	head := uint16(3 * s)
	mem := r.f.Mem[at:]
	mem[16] = 0xff
	if r.since++; r.Flush > 0 && r.since >= r.Flush {
		r.since = 0
		x.flush = true
		binary.LittleEndian.PutUint32(mem, BlkFlushOp)
		r.q.Desc[head].Next = head + 2
		r.q.Post(head)
		return
	}
	x.flush, x.write = false, r.WritePart > 0 && (r.WritePart >= 100 || int(r.random()>>32%100) < r.WritePart)
	x.block = r.pick()
	op, flags := uint32(BlkIn), uint16(Next|Write)
	if x.write {
		op, flags = BlkOut, Next
		if r.Verify {
			r.version[x.block]++
			fill(r.f.Mem[data:data+r.Block], r.Seed, r.first+x.block, r.version[x.block])
		}
	}
	binary.LittleEndian.PutUint32(mem, op)
	binary.LittleEndian.PutUint64(mem[8:], uint64(r.first+x.block)*uint64(r.Block/512))
	r.q.Desc[head].Next = head + 1
	r.q.Desc[head+1].Flags = flags
	r.q.Post(head)
}

// pick chooses a block; with Verify one that nothing else is under way to.
func (r *loadRun) pick() int64 {
	for {
		b := r.at
		if r.Sequential {
			if r.at++; r.at == r.blocks {
				r.at = 0
			}
		} else {
			b = int64(r.random() >> 11 % uint64(r.blocks))
		}
		if !r.Verify {
			return b
		}
		if bit := uint64(1) << (b % 64); r.taken[b/64]&bit == 0 {
			r.taken[b/64] |= bit
			return b
		}
	}
}

// check looks at an answer.
func (r *loadRun) check(s int, now int64) {
	x := &r.slots[s]
	at, data := r.place(s)
	r.requests++
	r.latency.Record(time.Duration(now - x.began))
	if r.f.Mem[at+16] != 0 {
		r.errors++
	} else if r.Verify && !x.flush && !x.write && r.version[x.block] > 0 {
		if err := compare(r.f.Mem[data:data+r.Block], r.Seed, r.first+x.block, r.version[x.block]); err != nil && r.err == nil {
			r.err = err
		}
	}
	if r.Verify && !x.flush {
		r.taken[x.block/64] &^= 1 << (x.block % 64)
	}
}

// fill writes what belongs into a block: it says in every 32 bytes which block it
// is, and which version of it.
func fill(p []byte, seed uint64, block int64, version uint32) {
	for i, w := 0, longs(p); i+4 <= len(w); i += 4 {
		w[i], w[i+1], w[i+2], w[i+3] = seed^0x5556424f4e44, uint64(block), uint64(version), uint64(i)
	}
}

func compare(p []byte, seed uint64, block int64, version uint32) error {
	for i, w := 0, longs(p); i+4 <= len(w); i += 4 {
		if w[i] != seed^0x5556424f4e44 || w[i+1] != uint64(block) || w[i+2] != uint64(version) || w[i+3] != uint64(i) {
			return fmt.Errorf("%w: block %d, word %d: block %d, version %d, word %d instead of version %d",
				ErrContent, block, i, w[i+1], w[i+2], w[i+3], version)
		}
	}
	return nil
}
