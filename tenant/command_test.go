package tenant

import (
	"strings"
	"testing"

	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/store"
)

// TestNoReceipt: what the server says beside no receipt is told as its word, in parts that can be told apart.
func TestNoReceipt(t *testing.T) {
	op := &opened{vm: &store.VM{Name: "web1"}, conn: &Conn{}}
	for want, out := range map[string]client.Outcome{
		"(the server says, unverified: unknown)":                                {Outcome: "unknown"},
		"(the server says, unverified: unknown: Unavailable)":                   {Outcome: "unknown", Class: "Unavailable"},
		"(the server says, unverified: unknown: Unavailable: the gate is gone)": {Outcome: "unknown", Class: "Unavailable", Reason: "the gate is gone"},
	} {
		if err := NewOwner(nil).noReceipt(op, Pause, &out); !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %q at its end", err, want)
		}
	}
}
