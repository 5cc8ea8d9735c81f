package browser

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/ui"
	"github.com/uvbond/uvbond/tenant/ui/uitest"
)

// TestPage: the whole page, against a fake host.
func TestPage(t *testing.T) {
	m := uitest.NewMachine(t.Context())
	m.Print("uvbond guest is up\r\n\x1b[6n\x1b[c\x1b[>c") // and questions that nobody should answer now
	w := uitest.New(t, func(o *ui.Options) {
		o.Dial = m.Dial
		o.Doctor = func(context.Context) []ui.Finding {
			return []ui.Finding{{What: "state folder", State: "ok", Text: "/home/alice/.config/uvbond"}, {What: "hosts", State: "warning", Text: "none is pinned", Mend: "uvbond host add NAME https://SERVER:8443 --fingerprint SHA256:" + strings.Repeat("ABCD", 12)}}
		}
	})
	var held sync.Mutex // while it is, commands stand after their first hypercall
	w.Host.Step = func(string) {
		held.Lock()
		defer held.Unlock()
	}
	defer func() { // a script that failed in between
		held.TryLock()
		held.Unlock()
	}()
	Run(t, "page.mjs", w.URL, map[string]Ask{
		"link": func(string) (string, error) { return w.Page.Link(), nil },
		"vms": func(string) (string, error) {
			w.Pin(t)
			w.Create(t, "web1", tenant.Terms{Commands: []string{"maintain"}, Limits: []string{"3/day"}, Windows: []string{"mon-fri 08:00-18:00"}, MaxPause: "10min"})
			w.Create(t, "db1", tenant.Terms{Commands: []string{"observe"}})
			return "", nil
		},
		"hold":    func(string) (string, error) { held.Lock(); return "", nil },
		"release": func(string) (string, error) { held.Unlock(); return "", nil },
		"evil":    func(mode string) (string, error) { w.Host.Evil(mode); return "", nil },
		"typed":   func(string) (string, error) { return m.Typed(), nil },
		"print":   func(text string) (string, error) { m.Print(text); return "", nil },
		"cut":     func(string) (string, error) { m.Cut(); return "", nil },
		"pressed": func(key string) (string, error) {
			for range 100 {
				if slices.Contains(m.Keys(), keysym(key[0])) {
					return "", nil
				}
				time.Sleep(20 * time.Millisecond)
			}
			return "", fmt.Errorf("the screen got the keys %v", m.Keys())
		},
		"keys": func(string) (string, error) { return fmt.Sprint(m.Keys()), nil },
		"dialed": func(arg string) (string, error) { // waits until a kind of channel was opened so often
			kind, want, _ := strings.Cut(arg, " ")
			n, err := strconv.Atoi(want)
			for ; err == nil && m.Dials(kind) < n; time.Sleep(20 * time.Millisecond) {
			}
			return "", err
		},
		"dials": func(kind string) (string, error) { return strconv.Itoa(m.Dials(kind)), nil },
		"many": func(arg string) (string, error) { // attempts of operators
			n, err := strconv.Atoi(arg)
			for i := range n {
				w.Host.Tried("screendump", fmt.Sprintf("never allowed (%d)", i))
			}
			return "", err
		},
		"delegate": func(who string) (string, error) {
			k, err := bond.GenerateDelegateKey()
			if err == nil {
				_, _, err = w.Owner.Delegate(t.Context(), tenant.DelegateRequest{VM: "web1", To: k.Public(), Name: who, Allow: tenant.Terms{Commands: []string{"status", "reset"}, Until: "30day"}})
			}
			return "", err
		},
		"tried": func(what string) (string, error) {
			w.Host.Tried(what, "never allowed: the screen belongs to the owner")
			return "", nil
		},
	})
}

// keysym is X11's number of a key.
func keysym(c byte) uint32 {
	if c == '\r' {
		return 0xff0d
	}
	return uint32(c)
}
