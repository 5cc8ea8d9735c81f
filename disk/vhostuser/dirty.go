package vhostuser

import (
	"errors"
	"sync/atomic"
)

var errLogShort = errors.New("the log of dirty pages ends before the memory")

// mark notes in the log that n bytes of guest memory at addr were written.
func (s *shared) mark(addr uint64, n uint32) error {
	if s == nil || n == 0 {
		return nil
	}
	log := words(s.mem)
	for p, last := addr/logPage, (addr+uint64(n)-1)/logPage; p <= last; p++ {
		if p/32 >= uint64(len(log)) {
			return errLogShort
		}
		atomic.OrUint32(&log[p/32], 1<<(p%32))
	}
	return nil
}
