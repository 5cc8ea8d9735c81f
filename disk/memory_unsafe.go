package disk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func blockDeviceSize(fd int) (int64, error) {
	var size uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, errno
	}
	return int64(size), nil
}

// offsetIn returns where b starts within mem, and whether it is wholly in there.
func offsetIn(mem, b []byte) (int, bool) {
	start, p := uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if p < start || p-start > uintptr(len(mem)) || uintptr(len(b)) > uintptr(len(mem))-(p-start) {
		return 0, false
	}
	return int(p - start), true
}

// onPage reports whether b starts on a multiple of a page, as direct I/O wants it.
func onPage(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%arenaBlock == 0
}
