package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// An operator who only listens: from Attack{Kind: "record"} on, all bytes that the
// management domain gets to see are kept in a file.

const (
	trafficName = "traffic"
	tapName     = "tap.sock"
)

// Record has the operator keep what crosses the management domain from now on:
// between tenants and the server, and between the server and the gate. The server
// is restarted for it. It returns the path of the file, where directions are mixed
// and everything stands as it was sent.
func (l *Lab) Record(ctx context.Context) (string, error) {
	if _, err := l.Operator(ctx, Attack{Kind: "record"}); err != nil {
		return "", err
	}
	data := l.data()
	l.StopServer(syscall.SIGTERM)
	l.ServerGate = filepath.Join(data, tapName)
	return filepath.Join(data, trafficName), l.StartServer(ctx)
}

// record begins to keep traffic.
func (o *operator) record() error {
	f, err := os.OpenFile(filepath.Join(o.conf.DataDir, trafficName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(o.conf.DataDir, tapName), Net: "unix"})
	if err != nil {
		f.Close()
		return err
	}
	t := &traffic{f: f}
	o.traffic.Store(t)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go o.tap(c, t)
		}
	}()
	return nil
}

// traffic is the file; a nil one keeps nothing.
type traffic struct {
	mu sync.Mutex
	f  *os.File
}

// Write is io.Writer. Whoever records is not to be noticed: failures are nobody's.
func (t *traffic) Write(p []byte) (int, error) {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		_, _ = t.f.Write(p)
	}
	return len(p), nil
}

// tap passes on a connection to the gate, descriptors included.
func (o *operator) tap(client *net.UnixConn, t *traffic) {
	defer client.Close()
	gate, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: o.conf.Gate, Net: "unix"})
	if err != nil {
		return
	}
	defer gate.Close()
	done := make(chan struct{}, 2)
	for _, way := range [][2]*net.UnixConn{{client, gate}, {gate, client}} {
		go func() {
			passOn(way[0], way[1], t)
			_ = way[1].CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}

func passOn(from, to *net.UnixConn, t *traffic) {
	data, extra := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*64))
	for {
		n, oobn, _, _, err := from.ReadMsgUnix(data, extra)
		if err != nil || n == 0 {
			return
		}
		_, _ = t.Write(data[:n])
		// A message to a full socket may be taken in part; the descriptors went with that.
		sent, _, err := to.WriteMsgUnix(data[:n], extra[:oobn], nil)
		closeReceived(extra[:oobn])
		if err == nil {
			_, err = to.Write(data[sent:n])
		}
		if err != nil {
			return
		}
	}
}

func closeReceived(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
}

// recorded keeps what requests and answers hold.
func (o *operator) recorded(inner http.RoundTripper) http.RoundTripper {
	return &recordedTransport{inner, o}
}

type recordedTransport struct {
	inner http.RoundTripper
	o     *operator
}

// RoundTrip is http.RoundTripper.
func (r *recordedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t := r.o.traffic.Load()
	if t == nil {
		return r.inner.RoundTrip(req)
	}
	fmt.Fprintf(t, "%s %s\n", req.Method, req.URL)
	if req.Body != nil {
		req.Body = &recordedBody{req.Body, t}
	}
	resp, err := r.inner.RoundTrip(req)
	if err == nil {
		resp.Body = &recordedBody{resp.Body, t}
	}
	return resp, err
}

// recordedBody is a body, also one of a connection that was taken out of HTTP.
type recordedBody struct {
	io.ReadCloser
	t *traffic
}

// Read is io.Reader.
func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.t.Write(p[:n])
	return n, err
}

// Write is io.Writer, for an upgraded connection.
func (b *recordedBody) Write(p []byte) (int, error) {
	w, ok := b.ReadCloser.(io.Writer)
	if !ok {
		return 0, errors.New("this body is not for writing")
	}
	_, _ = b.t.Write(p)
	return w.Write(p)
}
