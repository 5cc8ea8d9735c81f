package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

func (a *app) hostCommand() *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Pin hypervisors and the servers in front of them"}
	group(c)
	c.AddCommand(a.hostAdd(), a.hostList(), a.hostShow(), a.hostRemove(), a.hostTrustTLS())
	return c
}

type hostAddFlags struct {
	tokenFile, fingerprint, tlsFingerprint string
	yes                                    bool
}

func (a *app) hostAdd() *cobra.Command {
	var f hostAddFlags
	c := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Pin a hypervisor",
		Long: `Shows the fingerprints of the hypervisor's key and of the server's TLS key, asks,
and pins both. Compare the hypervisor's fingerprint with the one that the provider
publishes: everything else rests on it. Later changes are refused loudly. A host that
is pinned already and moved gets its new address this way; with a new TLS key too,
give --tls-fingerprint.

The token comes from --token-file or from the variable UVBOND_TOKEN.`,
		Example: `  uvbond host add lab https://server.example:8443 --token-file ~/lab.token
  uvbond host add lab https://127.0.0.1:8443 --fingerprint SHA256:ABCD-EFGH-...`,
		Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runHostAdd(c.Context(), args[0], args[1], f)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the API token")
	c.Flags().StringVar(&f.fingerprint, "fingerprint", "", "the hypervisor's fingerprint must be this one (no question is asked)")
	c.Flags().StringVar(&f.tlsFingerprint, "tls-fingerprint", "", "the server's TLS fingerprint must be this one")
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "pin whatever is shown, without asking (trust on first use)")
	return c
}

func (a *app) runHostAdd(ctx context.Context, name, url string, f hostAddFlags) error {
	if err := store.CheckName("host", name); err != nil {
		return err
	}
	if _, err := client.ParseURL(url); err != nil {
		return fail.Wrap(err, fail.Usage, "give the address as https://SERVER:8443", "bad address")
	}
	var want bond.HostID
	if f.fingerprint != "" {
		id, err := bond.ParseFingerprint(f.fingerprint)
		if err != nil {
			return fail.Wrap(err, fail.Usage, "copy it as the provider publishes it", "--fingerprint")
		}
		want = id
	}
	token, err := await(ctx, func() (string, error) { return readToken(f.tokenFile) }, nil)
	if err != nil {
		return err
	}
	o, err := a.owner()
	if err != nil {
		return err
	}
	offer, err := a.inspect(ctx, o, url, token, f)
	if err != nil {
		return err
	}
	shown := offer.Public.Fingerprint()
	if f.fingerprint != "" && offer.Public.ID() != want {
		return fail.New(fail.Forged, "nothing was pinned; ask the provider over another way than this server",
			"THE HYPERVISOR BEHIND %s IS NOT THE ONE YOU EXPECT\n    expected: %s\n    shown:    %s", url, want.Fingerprint(), shown)
	}
	old, oldErr := o.Store.Host(name)
	offer.TLSChecked = f.tlsFingerprint != ""
	known := oldErr == nil && string(old.PublicKey) == string(offer.Public.Bytes()) && (old.TLSPin == offer.TLSPin || offer.TLSChecked)
	if oldErr == nil && !known {
		_, err := o.Pin(ctx, name, token, offer) // refuses, with the words for it
		return err
	}
	a.note("Hypervisor of %s:\n    %s\nTLS key of %s:\n    %s", client.Printable(offer.Info.Name), shown, url, tenant.TLSFingerprint(offer.TLSPin))
	if !known && !f.yes && f.fingerprint == "" {
		if err := a.confirm(ctx, "Is this the fingerprint that the provider publishes?", "check it with --fingerprint, or pin it unseen with --yes"); err != nil {
			return err
		}
	}
	h, err := o.Pin(ctx, name, token, offer)
	if err != nil {
		return err
	}
	return a.print(hostJSON(h), func(w io.Writer) { fmt.Fprintf(w, "pinned %s (%s)\n", name, url) })
}

// inspect reads the identity. The token is sent only when the server asks for
// one, and then only after its TLS key was accepted.
func (a *app) inspect(ctx context.Context, o *tenant.Owner, url, token string, f hostAddFlags) (*tenant.Offer, error) {
	pin, err := o.ProbeTLS(ctx, url)
	if err != nil {
		return nil, err
	}
	if f.tlsFingerprint != "" {
		want, err := bond.ParseFingerprint(f.tlsFingerprint)
		if err != nil {
			return nil, fail.Wrap(err, fail.Usage, "copy it as the provider publishes it", "--tls-fingerprint")
		}
		if want.String() != pin {
			return nil, fail.New(fail.Forged, "no token was sent; ask the provider", "THE TLS KEY OF %s IS NOT THE ONE YOU EXPECT\n    expected: %s\n    shown:    %s", url, want.Fingerprint(), tenant.TLSFingerprint(pin))
		}
	}
	offer, err := o.Inspect(ctx, url, "", pin)
	var api *client.APIError
	if err == nil || token == "" || !errors.As(err, &api) || api.Status != 401 && api.Status != 403 {
		return offer, err
	}
	if !f.yes && f.fingerprint == "" && f.tlsFingerprint == "" {
		a.note("%s wants your token before it shows its hypervisor. Its TLS key:\n    %s", url, tenant.TLSFingerprint(pin))
		if err := a.confirm(ctx, "Send it the token?", "check the server with --tls-fingerprint, or use --fingerprint or --yes"); err != nil {
			return nil, err
		}
	}
	return o.Inspect(ctx, url, token, pin)
}

func readToken(path string) (string, error) {
	token := os.Getenv("UVBOND_TOKEN")
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return "", fail.Wrap(err, fail.Other, "check the path", "cannot read the token")
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, 4097))
		if err != nil {
			return "", fail.Wrap(err, fail.Other, "check the path", "cannot read the token")
		}
		token = string(data)
	}
	token = strings.TrimSpace(token)
	if len(token) > 4096 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fail.New(fail.Usage, "a token is one word of printable characters", "this is not a token")
	}
	return token, nil
}

type hostView struct {
	Name           string `json:"name"`
	URL            string `json:"url"`
	Fingerprint    string `json:"fingerprint"`
	TLSFingerprint string `json:"tls_fingerprint"`
	Token          bool   `json:"has_token"`
	Added          int64  `json:"added"`
}

func hostJSON(h *store.Host) hostView {
	v := hostView{Name: h.Name, URL: h.URL, TLSFingerprint: tenant.TLSFingerprint(h.TLSPin), Token: h.Token != "", Added: h.Added, Fingerprint: "(damaged)"}
	if p, err := bond.ParseHostPublic(h.PublicKey); err == nil {
		v.Fingerprint = p.Fingerprint()
	}
	return v
}

func (a *app) hostList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the pinned hosts", Aliases: []string{"ls"},
		Example: "  uvbond host list --json",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			names, err := o.Store.Hosts()
			if err != nil {
				return err
			}
			var damaged error // the others are listed all the same
			views, rows := []hostView{}, [][]string{}
			for _, n := range names {
				h, err := o.Store.Host(n)
				if err != nil {
					damaged = errors.Join(damaged, err)
					continue
				}
				v := hostJSON(h)
				views = append(views, v)
				rows = append(rows, []string{v.Name, v.URL, v.Fingerprint})
			}
			return errors.Join(a.print(views, func(w io.Writer) { table(w, []string{"NAME", "URL", "HYPERVISOR"}, rows) }), damaged)
		},
	}
}

func (a *app) hostShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a pinned host",
		Example:           "  uvbond host show lab",
		Args:              exactly(1),
		ValidArgsFunction: a.hostNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			h, err := o.Store.Host(args[0])
			if err != nil {
				return err
			}
			v := hostJSON(h)
			return a.print(v, func(w io.Writer) {
				token := "none"
				if v.Token {
					token = "stored"
				}
				pairs(w, "name", v.Name, "url", v.URL, "hypervisor", v.Fingerprint, "tls key", v.TLSFingerprint, "token", token, "pinned", clock(v.Added))
			})
		},
	}
}

func (a *app) hostRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a pinned host", Aliases: []string{"rm"},
		Example:           "  uvbond host remove lab",
		Args:              exactly(1),
		ValidArgsFunction: a.hostNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			if err := o.Store.RemoveHost(c.Context(), args[0]); err != nil {
				return err
			}
			return a.print(map[string]string{"removed": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", args[0]) })
		},
	}
}

func (a *app) hostTrustTLS() *cobra.Command {
	var fingerprint string
	c := &cobra.Command{
		Use: "trust-tls NAME --tls-fingerprint FP", Short: "Pin a server's new TLS key",
		Long: `Replaces the pin of the server's TLS key after the provider renewed it. The pin of
the hypervisor stays: that one never changes.`,
		Example:           "  uvbond host trust-tls lab --tls-fingerprint SHA256:ABCD-EFGH-...",
		Args:              exactly(1),
		ValidArgsFunction: a.hostNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			h, err := o.Store.Host(args[0])
			if err != nil {
				return err
			}
			want, err := bond.ParseFingerprint(fingerprint)
			if err != nil {
				return fail.Wrap(err, fail.Usage, "copy it as the provider publishes it", "--tls-fingerprint")
			}
			pin, err := o.ProbeTLS(c.Context(), h.URL)
			if err != nil {
				return err
			}
			if pin != want.String() {
				return fail.New(fail.Forged, "the old pin stays", "THE TLS KEY OF %s IS NOT THE ONE YOU EXPECT\n    expected: %s\n    shown:    %s", h.URL, want.Fingerprint(), tenant.TLSFingerprint(pin))
			}
			if err := o.RepinTLS(c.Context(), args[0], pin); err != nil {
				return err
			}
			return a.print(map[string]string{"pinned": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "pinned the new TLS key of %s\n", args[0]) })
		},
	}
	c.Flags().StringVar(&fingerprint, "tls-fingerprint", "", "the new fingerprint, as the provider publishes it")
	_ = c.MarkFlagRequired("tls-fingerprint")
	return c
}
