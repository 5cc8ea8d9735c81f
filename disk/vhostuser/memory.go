package vhostuser

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// region is a part of guest memory that is mapped here.
type region struct {
	guest uint64 // guest physical address
	user  uint64 // address in the front end
	mem   []byte
	whole []byte // the mapping around mem
	refs  atomic.Int32
}

func (r *region) release() {
	if r.refs.Add(-1) == 0 {
		whole := r.whole
		r.mem, r.whole = nil, nil
		_ = unix.Munmap(whole)
	}
}

// spec is a region as the front end describes it.
type spec struct{ guest, size, user, offset uint64 }

func (m *message) spec(off int) spec {
	return spec{m.u64(off), m.u64(off + 8), m.u64(off + 16), m.u64(off + 24)}
}

// mapRegion maps what s says of fd, which stays the caller's.
func mapRegion(s spec, fd int) (*region, error) {
	const most = 1 << 62
	if s.size == 0 || s.size > most || s.offset > most || s.guest+s.size < s.guest || s.user+s.size < s.user {
		return nil, fmt.Errorf("memory region of %d bytes at %#x, %#x, %#x", s.size, s.guest, s.user, s.offset)
	}
	if s.guest%4 != s.offset%4 || s.user%4 != s.offset%4 {
		return nil, errors.New("memory region that is not aligned")
	}
	whole, mem, err := mapShared(fd, s.offset, s.size)
	if err != nil {
		return nil, fmt.Errorf("memory region at %#x: %w", s.guest, err)
	}
	// Guest memory belongs into no core file.
	_ = unix.Madvise(whole, unix.MADV_DONTDUMP)
	r := &region{guest: s.guest, user: s.user, mem: mem, whole: whole}
	r.refs.Store(1)
	return r, nil
}

// mapShared maps size bytes at offset of fd, which must be memory: a file of some
// other kind could let whoever made it decide how long a page takes to come.
func mapShared(fd int, offset, size uint64) (whole, mem []byte, err error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return nil, nil, err
	}
	page := uint64(unix.Getpagesize())
	switch fs.Type {
	case unix.TMPFS_MAGIC:
	case unix.HUGETLBFS_MAGIC:
		page = uint64(fs.Bsize)
	default:
		return nil, nil, errors.New("the descriptor is not of memory (memfd, tmpfs, hugetlbfs)")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < 0 || size > uint64(st.Size) || offset > uint64(st.Size)-size {
		return nil, nil, fmt.Errorf("%d bytes at %d are not in a file of %d", size, offset, st.Size)
	}
	lead := offset % page
	length := (lead + size + page - 1) / page * page
	whole, err = unix.Mmap(fd, int64(offset-lead), int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("mmap of %d bytes: %w", length, err)
	}
	return whole, whole[lead : lead+size : lead+size], nil
}

// memory is guest memory at one time: it does not change, the next one takes its
// place. Whoever uses it has a reference.
type memory struct {
	regions []*region // by guest address; they do not overlap
	refs    atomic.Int32
}

// newMemory takes over the reference to each region.
func newMemory(regions []*region) (*memory, error) {
	m := &memory{regions: slices.SortedFunc(slices.Values(regions), func(a, b *region) int { return cmp.Compare(a.guest, b.guest) })}
	m.refs.Store(1)
	for i, r := range m.regions {
		for _, o := range m.regions[:i] {
			if overlap(r.guest, o.guest, r, o) || overlap(r.user, o.user, r, o) {
				m.release()
				return nil, fmt.Errorf("memory regions at %#x and %#x overlap", o.guest, r.guest)
			}
		}
	}
	return m, nil
}

func overlap(at, bt uint64, a, b *region) bool {
	return at < bt+uint64(len(b.mem)) && bt < at+uint64(len(a.mem))
}

func (m *memory) release() {
	if m.refs.Add(-1) == 0 {
		for _, r := range m.regions {
			r.release()
		}
	}
}

// with returns this memory and one more region, whose reference it takes over.
func (m *memory) with(r *region) (*memory, error) {
	if len(m.regions) >= MaxMemorySlots {
		r.release()
		return nil, fmt.Errorf("more than %d memory regions", MaxMemorySlots)
	}
	for _, o := range m.regions {
		o.refs.Add(1)
	}
	return newMemory(append(slices.Clone(m.regions), r))
}

// without returns this memory without one region.
func (m *memory) without(s spec) (*memory, error) {
	i := slices.IndexFunc(m.regions, func(r *region) bool {
		return r.guest == s.guest && r.user == s.user && uint64(len(r.mem)) == s.size
	})
	if i < 0 {
		return nil, fmt.Errorf("no memory region of %d bytes at %#x, %#x", s.size, s.guest, s.user)
	}
	rest := slices.Delete(slices.Clone(m.regions), i, i+1)
	for _, o := range rest {
		o.refs.Add(1)
	}
	return newMemory(rest)
}

// find returns the region that addr is in, or nil.
func (m *memory) find(addr uint64) *region {
	lo, hi := 0, len(m.regions)
	for lo < hi {
		mid := (lo + hi) / 2
		if r := m.regions[mid]; addr < r.guest {
			hi = mid
		} else if addr-r.guest < uint64(len(r.mem)) {
			return r
		} else {
			lo = mid + 1
		}
	}
	return nil
}

// at returns n bytes at a guest address that lie in one region, or nil.
func (m *memory) at(addr uint64, n uint32) []byte {
	r := m.find(addr)
	if r == nil {
		return nil
	}
	b := r.mem[addr-r.guest:]
	if uint64(len(b)) < uint64(n) {
		return nil
	}
	return b[:n:n]
}

// gather appends the n bytes at a guest address, which may run on from one region
// into the next. It returns false if some are no memory.
func (m *memory) gather(dst [][]byte, addr uint64, n uint32) ([][]byte, bool) {
	for n > 0 {
		r := m.find(addr)
		if r == nil {
			return dst, false
		}
		b := r.mem[addr-r.guest:]
		if uint64(len(b)) > uint64(n) {
			b = b[:n]
		}
		dst = append(dst, b)
		n -= uint32(len(b))
		addr += uint64(len(b))
	}
	return dst, true
}

// userAt returns n bytes at an address of the front end that lie in one region, or
// nil.
func (m *memory) userAt(addr uint64, n int) []byte {
	for _, r := range m.regions {
		if addr >= r.user && addr-r.user < uint64(len(r.mem)) {
			if b := r.mem[addr-r.user:]; len(b) >= n {
				return b[:n:n]
			}
		}
	}
	return nil
}
