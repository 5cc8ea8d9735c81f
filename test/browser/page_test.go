package browser

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
				if slices.Contains(m.Keys(), uint32(key[0])) {
					return "", nil
				}
				time.Sleep(20 * time.Millisecond)
			}
			return "", fmt.Errorf("the screen got the keys %v", m.Keys())
		},
		"keys": func(string) (string, error) { return fmt.Sprint(m.Keys()), nil },
		"tried": func(what string) (string, error) {
			w.Host.Tried(what, "never allowed: the screen belongs to the owner")
			return "", nil
		},
	})
}
