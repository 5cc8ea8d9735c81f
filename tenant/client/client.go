package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Options say where the server is and how it is recognised.
type Options struct {
	URL    string // https://host:port
	Token  string // API token; empty sends none
	TLSPin string // hex SHA-256 of the server's TLS public key (SPKI); required
}

// Client talks to one server. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client

	dialer *net.Dialer // of channels, which have connections of their own
	tls    *tls.Config
}

// ParseURL checks the address of a server. Only https is accepted: the token
// must not travel in the clear, not even on the loopback interface, where other
// users can listen on the port once the server has stopped.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not an address: %w", text, err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not an https:// address", text)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q must be only https://host:port", text)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

// New returns a client that accepts only the pinned TLS key.
func New(o Options) (*Client, error) {
	base, err := ParseURL(o.URL)
	if err != nil {
		return nil, err
	}
	pin, err := hex.DecodeString(o.TLSPin)
	if err != nil || len(pin) != sha256.Size {
		return nil, errors.New("the pin of the server's TLS key is not a SHA-256 in hex")
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        pinned(pin),
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  commandTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: base, token: o.Token, http: &http.Client{Transport: transport, CheckRedirect: refuse}, dialer: dialer, tls: pinned(pin)}, nil
}

// pinned builds a TLS configuration that replaces the check of a certificate
// chain by the comparison with one key: the certificate is self-signed, and a
// certificate authority would add only parties to trust.
func pinned(pin []byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection below is the check
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return ErrTLSPin
			}
			if sum := spki(state.PeerCertificates[0]); !bytes.Equal(sum[:], pin) {
				return ErrTLSPin
			}
			return nil
		},
	}
}

func spki(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// ProbeTLS connects without a token and returns the hex SHA-256 of the TLS
// public key that the server shows, for the owner to compare and pin.
func ProbeTLS(ctx context.Context, address string) (string, error) {
	u, err := ParseURL(address)
	if err != nil {
		return "", err
	}
	hostPort := u.Host
	if u.Port() == "" {
		hostPort = net.JoinHostPort(u.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}} // nothing is sent over it
	conn, err := d.DialContext(ctx, "tcp", hostPort)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", ErrGarbage
	}
	sum := spki(certs[0])
	return hex.EncodeToString(sum[:]), nil
}

// call sends one request and decodes the answer into out, reading at most max
// bytes of it. A failure after the request was written is a *SentError.
func (c *Client) call(ctx context.Context, r request, out any) error {
	return c.stream(ctx, r, func(body io.Reader) error { return decode(body, r.most, out) })
}

// stream sends one request and lets take read the answer's body, of which it sees
// one byte more than r.most at most.
func (c *Client) stream(ctx context.Context, r request, take func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, r.method, c.base.String()+r.path, r.body)
	if err != nil {
		return err
	}
	c.headers(req, r)
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrTLSPin) {
			return ErrTLSPin
		}
		if sent.Load() {
			return &SentError{Err: plain(err)}
		}
		return plain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return problem(resp)
	}
	return take(io.LimitReader(resp.Body, r.most+1))
}

type request struct {
	method, path string
	body         io.Reader
	length       int64 // of body; 0 lets net/http find out
	kind         string
	digest       string
	most         int64
	timeout      time.Duration
}

func (c *Client) headers(req *http.Request, r request) {
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", "uvbond")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	if r.digest != "" {
		req.Header.Set("Content-Digest", r.digest)
	}
	if r.length > 0 {
		req.ContentLength = r.length
	}
}

// plain removes the method and address that net/http puts before a cause,
// because the caller names the host in the owner's words.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func decode(r io.Reader, most int64, out any) error {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return &SentError{Err: fmt.Errorf("the answer broke off: %w", err)}
	}
	if int64(len(data)) > most {
		return ErrTooLarge
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%w: %s", ErrGarbage, Printable(err.Error()))
	}
	return nil
}

func problem(resp *http.Response) error {
	e := &APIError{Status: resp.StatusCode, Offset: -1}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err == nil {
		var p struct{ Title, Detail, Class string }
		if json.Unmarshal(data, &p) == nil {
			e.Title, e.Detail, e.Class = Printable(p.Title), Printable(p.Detail), Printable(p.Class)
		}
	}
	if v, err := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64); err == nil && v >= 0 {
		e.Offset = v
	}
	return e
}

func digestHeader(sum [32]byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}
