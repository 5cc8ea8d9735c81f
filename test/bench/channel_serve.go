package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/gatetest"
)

// What the far end of a stream does is its first byte.
const (
	echoes = 'e'
	sends  = 's' // until the stream ends
	takes  = 't'
)

// channelVM is the VM of the measured channels.
var channelVM = bond.VMID{0xbe, 0x0c}

// channelParams are those of all measured channels; nothing here is secret.
func channelParams() channel.Params {
	return channel.Params{Key: bond.NewSecret(make([]byte, 32)), VM: channelVM, Descriptor: make([]byte, 32), Kind: channel.KindConsole, Nonce: [32]byte{1}}
}

// serveKeeper is a gate without a hypervisor, and the far end of its channels: those of
// kind console are sealed, others are bare. SOCKET.bare has bare ones without a gate.
func serveKeeper(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench serve-keeper SOCKET")
	}
	bare, err := net.Listen("unix", args[0]+".bare")
	if err != nil {
		return err
	}
	g := gatetest.New(args[0])
	g.Handle(qmp.CmdRegister, func(*gatetest.Call) (any, error) { // and it runs at once
		g.Edit(channelVM.String(), func(v *gatetest.VM) { v.State = qmp.StateRunning })
		return qmp.RegisterResult{VM: channelVM.String(), Confirmation: []byte("confirmed")}, nil
	})
	g.Channels(func(c *net.UnixConn, args map[string]any) {
		if args["kind"] != channel.KindConsole {
			farEnd(c)
			return
		}
		sealed, err := channel.Accept(context.Background(), c, channelParams())
		if err != nil {
			return
		}
		defer sealed.Close()
		farEnd(sealed)
	})
	if err := g.Listen(); err != nil {
		return err
	}
	for {
		c, err := bare.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			farEnd(c)
		}()
	}
}

func farEnd(c net.Conn) {
	buf := make([]byte, 32<<10)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	switch buf[0] {
	case echoes:
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	case sends:
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case takes:
		io.Copy(io.Discard, struct{ io.Reader }{c}) //nolint:errcheck // ends with the stream
	}
}

// relayAddress is what serveWebSocket says to those who connect to its socket.
type relayAddress struct{ URL, Pin string }

// serveWebSocket is a plain relay: WebSockets over TLS, each joined by io.Copy to a
// connection to BARE.
func serveWebSocket(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench serve-websocket BARE SOCKET")
	}
	cert, err := ownCertificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	pin := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
	said, err := json.Marshal(relayAddress{"https://" + l.Addr().String(), hex.EncodeToString(pin[:])})
	if err != nil {
		return err
	}
	ready, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ready.Accept()
			if err != nil {
				return
			}
			c.Write(said) //nolint:errcheck // the reader notices
			c.Close()
		}
	}()
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow() //nolint:errcheck // it has ended
		if _, _, err := ws.Read(r.Context()); err != nil || ws.Write(r.Context(), websocket.MessageText, []byte("{}")) != nil {
			return
		}
		far, err := net.Dial("unix", args[0])
		if err != nil {
			return
		}
		defer far.Close()
		near := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		go func() {
			io.Copy(far, near) //nolint:errcheck // any end will do
			far.Close()
		}()
		io.Copy(near, far) //nolint:errcheck // as above
	}))
}

func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
