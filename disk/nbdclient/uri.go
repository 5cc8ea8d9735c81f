package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// URI is where a server is: a URI of the NBD project's doc/uri.md, of the kinds
//
//	nbd://HOST[:PORT]/EXPORT            nbd+unix:///EXPORT?socket=PATH
//	nbds://HOST[:PORT]/EXPORT           nbds+unix:///EXPORT?socket=PATH&tls-hostname=NAME
type URI struct {
	Network  string // "tcp" or "unix"
	Address  string // host:port, or the path of the socket
	Export   string
	TLS      bool   // required
	Hostname string // whom the certificate must name; "" for a unix socket without tls-hostname
}

// defaultPort is NBD's at IANA.
const defaultPort = "10809"

// ParseURI reads an NBD URI. What it does not know is an error, as the standard
// asks: user names, anonymous TLS, keys of TLS-PSK, and unverified servers too.
func ParseURI(text string) (*URI, error) {
	u, err := parseURI(text)
	if err != nil {
		return nil, fmt.Errorf("nbd URI %.200q: %w", text, err)
	}
	return u, nil
}

func parseURI(text string) (*URI, error) {
	if len(text) > 2*proto.MaxString {
		return nil, errors.New("it is too long")
	}
	p, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it is not a URI")
	}
	u := &URI{Network: "tcp"}
	switch p.Scheme {
	case "nbd":
	case "nbds":
		u.TLS = true
	case "nbd+unix":
		u.Network = "unix"
	case "nbds+unix":
		u.Network, u.TLS = "unix", true
	default:
		return nil, errors.New("the scheme is not nbd, nbds, nbd+unix or nbds+unix")
	}
	switch {
	case p.Opaque != "" || !strings.HasPrefix(strings.TrimPrefix(text, p.Scheme+":"), "//"):
		return nil, errors.New("// must follow the scheme")
	case p.User != nil:
		return nil, errors.New("user names are not supported")
	case strings.Contains(text, "#"):
		return nil, errors.New("it has a fragment")
	}
	u.Export = strings.TrimPrefix(p.Path, "/")
	if len(u.Export) > proto.MaxString || strings.ContainsRune(u.Export, 0) {
		return nil, errors.New("the export's name is too long or has a zero byte")
	}
	if u.Network == "tcp" {
		if err := u.host(p); err != nil {
			return nil, err
		}
	} else if p.Host != "" {
		return nil, errors.New("a unix socket has no host: three slashes, and ?socket=PATH")
	}
	if err := u.query(p.RawQuery); err != nil {
		return nil, err
	}
	if u.Network == "unix" && u.Address == "" {
		return nil, errors.New("?socket=PATH is missing")
	}
	return u, nil
}

func (u *URI) host(p *url.URL) error {
	port := p.Port()
	if port == "" {
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if p.Hostname() == "" || err != nil || n == 0 || strings.HasSuffix(p.Host, ":") {
		return errors.New("host or port is missing or wrong")
	}
	u.Address = net.JoinHostPort(p.Hostname(), strconv.FormatUint(n, 10))
	u.Hostname = p.Hostname()
	return nil
}

func (u *URI) query(raw string) error {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return errors.New("the part behind ? is malformed")
	}
	for key, values := range q {
		v := values[0]
		switch {
		case len(values) > 1:
			return fmt.Errorf("%s is given twice", key)
		case key == "socket" && u.Network == "unix":
			if !strings.HasPrefix(v, "/") || len(v) > 107 || strings.ContainsRune(v, 0) {
				return errors.New("socket must be an absolute path of at most 107 bytes")
			}
			u.Address = v
		case key == "tls-hostname" && u.TLS && v != "":
			u.Hostname = v
		case key == "tls-type" && u.TLS && v == "x509", key == "tls-verify-peer" && u.TLS && v == "1":
		default:
			return fmt.Errorf("%.40q with that value is not supported here", key)
		}
	}
	return nil
}

// Dial connects, for Config.Dial. A TCP peer that is gone is noticed within half a
// minute, also while nothing is sent.
func (u *URI) Dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
	nc, err := d.DialContext(ctx, u.Network, u.Address)
	if err != nil {
		return nil, err
	}
	if t, ok := nc.(*net.TCPConn); ok {
		err = userTimeout(t, 30*time.Second)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// userTimeout bounds how long sent data stays unacknowledged (tcp(7)).
func userTimeout(t *net.TCPConn, d time.Duration) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	return errors.Join(err, set)
}
