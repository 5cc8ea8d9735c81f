package recorder

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
)

// maxFDs is how many descriptors one piece may carry: the kernel's own limit.
const maxFDs = 253

// Relay passes everything on between a client and a server until one of them
// ends or ctx does, and records it. What cannot be recorded is passed on still.
func (r *Recorder) Relay(ctx context.Context, client, server *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()
	done := make(chan error, 2)
	go func() { done <- r.pump(client, server, true) }()
	go func() { done <- r.pump(server, client, false) }()
	// The one that ends first ends both.
	err := <-done
	client.Close()
	server.Close()
	<-done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pump passes one direction on, with the descriptors where they came.
func (r *Recorder) pump(from, to *net.UnixConn, sent bool) error {
	var s splitter
	data, extra := make([]byte, 64<<10), make([]byte, syscall.CmsgSpace(4*maxFDs))
	for {
		n, oobn, _, _, err := from.ReadMsgUnix(data, extra)
		if n == 0 && err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return closedIsEnd(err)
		}
		fds := received(extra[:oobn])
		err = pass(to, data[:n], fds)
		for _, fd := range fds {
			syscall.Close(fd)
		}
		count := len(fds)
		for _, msg := range s.feed(data[:n]) {
			r.message(msg, sent, count)
			count = 0
		}
		if s.err != nil {
			r.fail(s.err)
		}
		if err != nil {
			return closedIsEnd(err)
		}
	}
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// pass writes data, the descriptors with its first byte.
func pass(to *net.UnixConn, data []byte, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	for len(data) > 0 {
		n, _, err := to.WriteMsgUnix(data, rights, nil)
		if err != nil {
			return err
		}
		data, rights = data[n:], nil
	}
	return nil
}

// received returns the descriptors in a control message.
func received(extra []byte) []int {
	messages, err := syscall.ParseSocketControlMessage(extra)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		if got, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return fds
}

// closedIsEnd: a connection that was closed has ended.
func closedIsEnd(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}
