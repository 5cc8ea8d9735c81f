package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt maps its file and believes it: a damaged page number makes it read
// outside of the map, which no recover catches, or walk in a circle. So before
// it gets the file, checkPages reads it the slow way, with every number checked.
// The layout is bbolt's (internal/common: page.go, meta.go, inode.go).
const (
	pageHeader  = 16 // id u64, flags u16, count u16, overflow u32
	pageElement = 16 // branch: pos, ksize u32, child u64; leaf: flags, pos, ksize, vsize u32
	bucketHead  = 16 // root page u64, sequence u64
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	flagBranch  = 1
	flagLeaf    = 2
	leafBucket  = 1 // flag of a leaf element whose value is a bucket
	noFreelist  = ^uint64(0)
	maxDepth    = 64
)

var order = binary.NativeEndian

type boltMeta struct{ pageSize, root, freelist, pages, txid uint64 }

type pageChecker struct {
	r       io.ReaderAt
	meta    boltMeta
	visited map[uint64]bool
}

func checkPages(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	c := &pageChecker{r: f, visited: map[uint64]bool{}}
	if err := c.readMeta(fi.Size()); err != nil {
		return fmt.Errorf("%w: %s: %w: restore it from a backup", ErrCorrupt, f.Name(), err)
	}
	if err := c.page(c.meta.root, nil, nil, 0); err != nil {
		return fmt.Errorf("%w: %s: %w: restore it from a backup", ErrCorrupt, f.Name(), err)
	}
	return nil
}

// readMeta takes the newer of the two valid meta pages, as bbolt does.
func (c *pageChecker) readMeta(size int64) error {
	first, ok := parseMeta(c.r, 0)
	offset := uint64(os.Getpagesize())
	if ok {
		offset = first.pageSize
	}
	second, ok2 := parseMeta(c.r, int64(offset))
	switch {
	case !ok && !ok2:
		return fmt.Errorf("no valid meta page")
	case !ok || ok2 && second.txid > first.txid:
		c.meta = second
	default:
		c.meta = first
	}
	m := c.meta
	if m.pageSize != offset {
		return fmt.Errorf("page size %d, expected %d", m.pageSize, offset)
	}
	if have := uint64(size) / m.pageSize; m.pages > have || m.pages < 3 {
		return fmt.Errorf("truncated: %d pages of %d", have, m.pages)
	}
	if m.freelist != noFreelist {
		return fmt.Errorf("unexpected free list")
	}
	return nil
}

func parseMeta(r io.ReaderAt, offset int64) (m boltMeta, ok bool) {
	b := make([]byte, pageHeader+metaSize)
	if _, err := r.ReadAt(b, offset); err != nil {
		return m, false
	}
	b = b[pageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:56])
	if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != sum.Sum64() {
		return m, false
	}
	m = boltMeta{uint64(order.Uint32(b[8:])), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}
	return m, m.pageSize >= 1024 && m.pageSize <= 1<<16 && m.pageSize&(m.pageSize-1) == 0
}

// page checks the tree below page id, whose keys must lie in [low, high); nil
// is no bound.
func (c *pageChecker) page(id uint64, low, high []byte, depth int) error {
	if id < 2 || id >= c.meta.pages || depth > maxDepth {
		return fmt.Errorf("page %d is out of range", id)
	}
	head := make([]byte, pageHeader)
	if _, err := c.r.ReadAt(head, int64(id*c.meta.pageSize)); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || overflow >= c.meta.pages-id {
		return fmt.Errorf("page %d has a wrong header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.visited[i] {
			return fmt.Errorf("page %d is used twice", i)
		}
		c.visited[i] = true
	}
	b := make([]byte, (overflow+1)*c.meta.pageSize)
	if _, err := c.r.ReadAt(b, int64(id*c.meta.pageSize)); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	if err := c.elements(b, low, high, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks the elements of the page in b.
func (c *pageChecker) elements(b, low, high []byte, depth int) error {
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return fmt.Errorf("unknown kind %#x", flags)
	}
	if flags == flagBranch && count == 0 || count*pageElement > len(b)-pageHeader {
		return fmt.Errorf("impossible number of elements %d", count)
	}
	var keys [][]byte
	for i := range count {
		key, err := elementKey(b, flags, i, count)
		if err != nil {
			return err
		}
		prev := low
		if i > 0 {
			prev = keys[i-1]
		}
		order := bytes.Compare(prev, key)
		if order > 0 || order == 0 && i > 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("keys are out of order")
		}
		keys = append(keys, key)
	}
	for i := range count {
		if err := c.below(b, flags, i, keys, high, depth); err != nil {
			return err
		}
	}
	return nil
}

func elementKey(b []byte, flags uint16, i, count int) ([]byte, error) {
	at := pageHeader + i*pageElement
	e := b[at : at+pageElement]
	pos, ksize, vsize := order.Uint32(e), order.Uint32(e[4:]), uint32(0)
	if flags == flagLeaf {
		pos, ksize, vsize = order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		if order.Uint32(e)&^leafBucket != 0 {
			return nil, fmt.Errorf("element %d has unknown flags", i)
		}
	}
	start := uint64(at) + uint64(pos)
	if ksize == 0 || start < uint64(pageHeader+count*pageElement) || start+uint64(ksize)+uint64(vsize) > uint64(len(b)) {
		return nil, fmt.Errorf("element %d lies outside of the page", i)
	}
	return b[start : start+uint64(ksize)], nil
}

// below checks what element i points to: a child page or a bucket.
func (c *pageChecker) below(b []byte, flags uint16, i int, keys [][]byte, high []byte, depth int) error {
	at := pageHeader + i*pageElement
	e := b[at : at+pageElement]
	if flags == flagBranch {
		if i+1 < len(keys) {
			high = keys[i+1]
		}
		return c.page(order.Uint64(e[8:]), keys[i], high, depth+1)
	}
	if order.Uint32(e) != leafBucket {
		return nil
	}
	start := at + int(order.Uint32(e[4:])) + int(order.Uint32(e[8:]))
	v := b[start : start+int(order.Uint32(e[12:]))]
	if len(v) < bucketHead {
		return fmt.Errorf("bucket %q is short", keys[i])
	}
	if root := order.Uint64(v); root != 0 {
		return c.page(root, nil, nil, depth+1)
	}
	inline := v[bucketHead:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != flagLeaf || depth > maxDepth {
		return fmt.Errorf("bucket %q is damaged", keys[i])
	}
	return c.elements(inline, nil, nil, depth+1)
}
