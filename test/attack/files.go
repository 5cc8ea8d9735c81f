package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// file is a descriptor that the attacker hands over. Path names a file, or is
// one of the of… constants.
type file struct {
	Path  string `json:"path"`
	Flags int    `json:"flags,omitempty"` // of open(2)
}

// Descriptors that are no files of the file system.
const (
	ofPipe    = "a pipe"
	ofSocket  = "a socket"
	ofMemory  = "a memory file"
	ofEvent   = "an eventfd"
	ofEpoll   = "an epoll"
	ofPidfd   = "a pidfd"
	ofTimer   = "a timer"
	ofProcess = "its own memory"
)

// handed is a descriptor and what must be closed with it.
type handed struct {
	fd    int
	other int // -1: nothing
}

func (h handed) close() {
	unix.Close(h.fd)
	if h.other >= 0 {
		unix.Close(h.other)
	}
}

func openAll(files []file) (out []handed, err error) {
	for _, f := range files {
		h, err := f.open()
		if err != nil {
			return out, fmt.Errorf("%s: %w", f.Path, err)
		}
		out = append(out, h)
	}
	return out, nil
}

func (f file) open() (h handed, err error) {
	h.other = -1
	switch f.Path {
	case ofPipe:
		var p [2]int
		err = unix.Pipe2(p[:], unix.O_CLOEXEC)
		h.fd, h.other = p[0], p[1]
	case ofSocket:
		var p [2]int
		p, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		h.fd, h.other = p[0], p[1]
	case ofMemory:
		if h.fd, err = unix.MemfdCreate("disk", unix.MFD_CLOEXEC); err == nil {
			err = unix.Ftruncate(h.fd, 64<<20)
		}
	case ofEvent:
		h.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	case ofEpoll:
		h.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	case ofPidfd:
		h.fd, err = unix.PidfdOpen(os.Getpid(), 0)
	case ofTimer:
		h.fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	case ofProcess:
		h.fd, err = unix.Open("/proc/self/mem", unix.O_RDWR|unix.O_CLOEXEC, 0)
	default:
		h.fd, err = unix.Open(f.Path, f.Flags|unix.O_CLOEXEC, 0)
	}
	return h, err
}

// readWrite is how the server opens a disk.
const readWrite = unix.O_RDWR
