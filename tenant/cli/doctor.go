package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// Version is the version of this build; the linker may set it.
var Version = ""

func version() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: exactly(0),
		Example: "  uvbond version --json",
		RunE: func(*cobra.Command, []string) error {
			v := map[string]any{"version": version(), "protocols": bond.Supported}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "uvbond %s, protocol %v\n", version(), bond.Supported) })
		},
	}
}

// finding is one line of doctor.
type finding struct {
	What  string `json:"what"`
	State string `json:"state"` // ok, warning or error
	Text  string `json:"text"`
	Mend  string `json:"mend,omitempty"` // the command that mends it
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this client, its hosts and its VMs",
		Long:    "Checks the state folder, every pinned host (reachable, same identity, clock, versions)\nand every VM's state, and names the command that mends what is wrong.",
		Example: "  uvbond doctor",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			list, worst := a.examine(c.Context())
			err := a.print(list, func(w io.Writer) {
				for _, f := range list {
					fmt.Fprintf(w, "%-8s %s: %s\n", f.State, f.What, f.Text)
					if f.Mend != "" {
						fmt.Fprintf(w, "         mend it: %s\n", f.Mend)
					}
				}
			})
			if c.Context().Err() != nil {
				return context.Cause(c.Context())
			}
			if worst != nil {
				return worst
			}
			return err
		},
	}
}

// examine returns what was found and, when something is wrong, the error with
// the gravest class.
func (a *app) examine(ctx context.Context) (list []finding, worst error) {
	failed := func(what string, err error, mend string) {
		list = append(list, finding{what, "error", err.Error(), mend})
		if worst == nil || fail.CodeOf(err) == fail.Forged {
			worst = fail.New(fail.CodeOf(err), "see the lines above", "%s needs attention", what)
		}
	}
	bad := func(what string, err error) { failed(what, err, fail.HintOf(err)) }
	good := func(what, text string) { list = append(list, finding{what, "ok", text, ""}) }
	o, err := a.owner()
	if err != nil {
		bad("state folder", err)
		return list, worst
	}
	good("state folder", o.Store.Dir())
	if _, err := os.Stat("/dev/tty"); err != nil {
		list = append(list, finding{"terminal", "warning", "none: passphrases cannot be asked for", "give --passphrase-file"})
	}
	hosts, err := o.Store.Hosts()
	if err != nil {
		bad("hosts", err)
	}
	if len(hosts) == 0 {
		list = append(list, finding{"hosts", "warning", "none is pinned", "uvbond host add NAME https://SERVER:8443"})
	}
	for _, h := range hosts {
		what := "host " + h
		conn, err := o.Connect(ctx, h)
		if err != nil {
			failed(what, err, mendHost(o, h, err))
			continue
		}
		list = append(list, a.examineHost(ctx, o, what, conn)...)
	}
	vms, err := o.Store.VMs()
	if err != nil {
		bad("VMs", err)
	}
	for _, n := range vms {
		if f, err := examineVM(o, n); err != nil {
			bad("vm "+n, err)
		} else {
			list = append(list, f)
		}
	}
	return list, worst
}

// mendHost names the command for a host that could not be connected to.
func mendHost(o *tenant.Owner, name string, err error) string {
	h, herr := o.Store.Host(name)
	var api *client.APIError
	switch {
	case herr != nil || fail.CodeOf(err) != fail.Connection:
		return fail.HintOf(err)
	case errors.As(err, &api) && (api.Status == http.StatusUnauthorized || api.Status == http.StatusForbidden):
		return "uvbond host add " + name + " " + h.URL + " --token-file FILE, with a token from the provider"
	case errors.As(err, &api):
		return "uvbond-server doctor and uvbond-hypervisor doctor, on the host: ask the provider"
	}
	return "curl -k " + h.URL + "/healthz shows whether it answers; if it moved: uvbond host add " + name + " https://NEW-ADDRESS:8443"
}

func (a *app) examineHost(ctx context.Context, o *tenant.Owner, what string, conn *tenant.Conn) []finding {
	out := []finding{{what, "ok", "reachable, and its identity is the pinned one", ""}}
	if _, err := bond.ChooseVersion(conn.Info.Versions); err != nil {
		out = append(out, finding{what, "warning", err.Error(), "install the newest uvbond, or ask the provider to upgrade the host"})
	}
	if off := tenant.Behind(time.Unix(conn.Info.Time, 0), o.Now()); off != "" {
		out = append(out, finding{what, "warning", off + " (unverified)", "timedatectl set-ntp true"})
	}
	if _, err := conn.VMs(ctx); err != nil {
		out = append(out, finding{what, "warning", "the token is not accepted: " + err.Error(), mendHost(o, conn.Name, fail.Wrap(err, fail.Connection, "", "%s", conn.Name))})
	}
	return out
}

func examineVM(o *tenant.Owner, name string) (finding, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return finding{}, err
	}
	b, err := o.Store.Bond(vm)
	if err != nil {
		return finding{}, err
	}
	b.Wipe()
	if vm.Phase == store.PhasePending {
		return finding{"vm " + name, "warning", "its registration was interrupted", "uvbond vm create " + name + " --resume"}, nil
	}
	if len(vm.BootNonce) > 0 && tenant.Ended(vm.State) {
		return finding{"vm " + name, "warning", "the answer to its last start was lost; at its last receipt it had no instance", "uvbond vm start " + name}, nil
	}
	if len(vm.BootNonce) > 0 {
		return finding{"vm " + name, "warning", "the answer to its last start was lost", "uvbond vm status " + name}, nil
	}
	return finding{"vm " + name, "ok", "bonded to " + vm.Host, ""}, nil
}
