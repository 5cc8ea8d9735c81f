package tenant

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// Offer is an identity that a server shows and that nobody has pinned yet.
type Offer struct {
	URL    string
	TLSPin string           // hex SHA-256 of the server's TLS public key
	Public *bond.HostPublic // the hypervisor's key
	Info   client.Host

	// TLSChecked tells that the person gave TLSPin beforehand: it may then take
	// the place of an older one.
	TLSChecked bool
}

// TLSFingerprint returns a TLS pin as a person compares it.
func TLSFingerprint(pin string) string {
	raw, err := hex.DecodeString(pin)
	if err != nil || len(raw) != 32 {
		return "(damaged)"
	}
	return bond.HostID(raw).Fingerprint()
}

// ProbeTLS returns the pin of the TLS key that a server shows. No token is sent.
func (o *Owner) ProbeTLS(ctx context.Context, url string) (string, error) {
	pin, err := client.ProbeTLS(ctx, url)
	if err != nil {
		return "", contact(ctx, url, err)
	}
	return pin, nil
}

// Inspect asks the server with that TLS key for the hypervisor's identity.
func (o *Owner) Inspect(ctx context.Context, url, token, tlsPin string) (*Offer, error) {
	c, err := client.New(client.Options{URL: url, Token: token, TLSPin: tlsPin})
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "give the address as https://SERVER:8443", "bad address")
	}
	info, err := c.Host(ctx)
	if err != nil {
		return nil, contact(ctx, url, err)
	}
	public, err := checkInfo(url, info)
	if err != nil {
		return nil, err
	}
	return &Offer{URL: url, TLSPin: tlsPin, Public: public, Info: *info}, nil
}

func checkInfo(where string, info *client.Host) (*bond.HostPublic, error) {
	public, err := bond.ParseHostPublic(info.PublicKey)
	if err != nil {
		return nil, fail.Wrap(err, fail.Connection, "ask the provider; this is no UVBond server, or its hypervisor is down", "%s shows no valid hypervisor key", where)
	}
	if info.Host != "" && info.Host != public.ID().String() {
		return nil, fail.New(fail.Forged, "do not use this server until the provider has explained it", "%s shows a hypervisor identity that is not the one of its key", where)
	}
	return public, nil
}

// Pin saves an offer under a name. Another identity under the same name is
// refused: a hypervisor does not change its key, somebody is in between.
func (o *Owner) Pin(ctx context.Context, name, token string, offer *Offer) (*store.Host, error) {
	h := &store.Host{Name: name, URL: offer.URL, Token: token, PublicKey: offer.Public.Bytes(), TLSPin: offer.TLSPin, Added: o.Now().Unix()}
	err := o.Store.PutHost(ctx, h, func(old *store.Host) error {
		if old == nil {
			return nil
		}
		if !bytes.Equal(old.PublicKey, h.PublicKey) {
			return changedKey(name, old.PublicKey, offer.Public)
		}
		if old.TLSPin != h.TLSPin && !offer.TLSChecked {
			return changedTLS(name)
		}
		return nil
	})
	return h, err
}

func changedKey(name string, pinned []byte, shown *bond.HostPublic) error {
	was := "(damaged)"
	if p, err := bond.ParseHostPublic(pinned); err == nil {
		was = p.Fingerprint()
	}
	return &fail.Error{Code: fail.Forged, Text: fmt.Sprintf(`THE HYPERVISOR OF %q HAS ANOTHER IDENTITY THAN THE PINNED ONE
    pinned:  %s
    shown:   %s
  Somebody may be putting another machine in its place. Nothing was sent to it`, name, was, shown.Fingerprint()),
		Hint: fmt.Sprintf("ask the provider over another way than this server; only if the machine was truly replaced: uvbond host remove %s, then add it again (its VMs cannot move with it)", name)}
}

func changedTLS(name string) error {
	return &fail.Error{Code: fail.Forged, Text: fmt.Sprintf(`THE SERVER OF %q SHOWS ANOTHER TLS KEY THAN THE PINNED ONE
  Somebody may be between you and the server. No token and no message was sent`, name),
		Hint: fmt.Sprintf("ask the provider for the new fingerprint; if it is right: uvbond host trust-tls %s --tls-fingerprint FINGERPRINT", name)}
}

// RepinTLS replaces the pin of the server's TLS key. The hypervisor's key stays.
func (o *Owner) RepinTLS(ctx context.Context, name, pin string) error {
	h, err := o.Store.Host(name)
	if err != nil {
		return err
	}
	h.TLSPin = pin
	return o.Store.PutHost(ctx, h, func(*store.Host) error { return nil })
}

// Conn is a checked way to a pinned host.
type Conn struct {
	*client.Client
	Name   string
	Public *bond.HostPublic // the pinned key
	Info   client.Host      // the server's word, except for the key
}

// Connect reaches a pinned host and compares both pins.
func (o *Owner) Connect(ctx context.Context, name string) (*Conn, error) {
	h, err := o.Store.Host(name)
	if err != nil {
		return nil, err
	}
	pinned, err := bond.ParseHostPublic(h.PublicKey)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "restore it from a backup, or remove the host and add it again", "the pinned key of host %q is damaged", name)
	}
	c, err := client.New(client.Options{URL: h.URL, Token: h.Token, TLSPin: h.TLSPin})
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "remove the host and add it again", "the state of host %q is damaged", name)
	}
	info, err := c.Host(ctx)
	if err != nil {
		return nil, contact(ctx, name, err)
	}
	shown, err := checkInfo(name, info)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(shown.Bytes(), pinned.Bytes()) != 1 {
		return nil, changedKey(name, h.PublicKey, shown)
	}
	return &Conn{Client: c, Name: name, Public: pinned, Info: *info}, nil
}

// Disks asks for the limits and statistics of a VM's disks: the server's word,
// unverified.
func (o *Owner) Disks(ctx context.Context, name string) ([]qmp.DiskState, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, err
	}
	conn, err := o.Connect(ctx, vm.Host)
	if err != nil {
		return nil, err
	}
	disks, err := conn.Client.Disks(ctx, vm.ID)
	if err != nil {
		return nil, contact(ctx, vm.Host, err)
	}
	return disks, nil
}

// contact classes a failed request to a host, in the owner's words.
func contact(ctx context.Context, where string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var done *fail.Error
	if errors.As(err, &done) {
		return err
	}
	if errors.Is(err, client.ErrTLSPin) {
		return changedTLS(where)
	}
	if errors.Is(err, client.ErrGarbage) || errors.Is(err, client.ErrTooLarge) {
		return fail.Wrap(err, fail.Connection, "check the address; if it is right, tell the provider", "%s", where)
	}
	var api *client.APIError
	if !errors.As(err, &api) {
		return fail.Wrap(err, fail.Connection, "is the server running and the address right? if it moved: uvbond host add NAME https://NEW-ADDRESS:8443", "cannot reach %s", where)
	}
	switch {
	case api.Status == http.StatusUnauthorized || api.Status == http.StatusForbidden:
		return fail.Wrap(err, fail.Connection, "the token is missing or wrong: give it with --token-file or UVBOND_TOKEN to `uvbond host add`", "%s", where)
	case api.Status == http.StatusRequestEntityTooLarge || api.Status == http.StatusInsufficientStorage:
		return fail.Wrap(err, fail.Other, "remove images that are not needed: uvbond disk list, uvbond disk remove", "%s has no room for it", where)
	case api.Status == http.StatusTooManyRequests:
		return fail.Wrap(err, fail.Connection, "wait a little and try again", "%s", where)
	case api.Status >= 500:
		return fail.Wrap(err, fail.Connection, "the server is in trouble: try again, then tell the provider", "%s", where)
	case api.Status == http.StatusNotFound && api.Class == "":
		return fail.Wrap(err, fail.Connection, "is this the address of a UVBond server? give it without a path: https://SERVER:8443", "%s", where)
	default:
		return fail.Wrap(err, fail.Other, "", "%s", where)
	}
}

// clockHint is what to do about clocks that differ.
const clockHint = "set the clock right on this machine (timedatectl set-ntp true); if it is right, ask the provider to mend the host's"

// clockOff says by how much the host's clock, as the server tells it, differs.
func (o *Owner) clockOff(conn *Conn) string {
	if conn.Info.Time == 0 {
		return ""
	}
	return Behind(time.Unix(conn.Info.Time, 0), o.Now())
}

// Behind says by how much a host's clock differs from the client's, in words,
// or "" when they agree within a few seconds.
func Behind(host, here time.Time) string {
	d := host.Sub(here).Round(time.Second)
	switch {
	case d.Abs() <= 5*time.Second:
		return ""
	case d > 0:
		return fmt.Sprintf("the host's clock is %s ahead of this machine's", d)
	default:
		return fmt.Sprintf("the host's clock is %s behind this machine's", -d)
	}
}
