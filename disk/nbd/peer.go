package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

func (s *Server) checkPeer(ctx context.Context, nc net.Conn) error {
	if s.CheckPeer == nil {
		return nil
	}
	cred, err := PeerCredentials(nc)
	if err != nil {
		return err
	}
	return s.CheckPeer(ctx, cred)
}

// PeerCredentials returns who connected nc, as the kernel recorded it at
// connect time (SO_PEERCRED, unix(7)).  nc must be a unix socket.
func PeerCredentials(nc net.Conn) (*unix.Ucred, error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket: the kernel cannot say who connected")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if optErr != nil {
		return nil, fmt.Errorf("credentials of the peer: %w", optErr)
	}
	return cred, nil
}
