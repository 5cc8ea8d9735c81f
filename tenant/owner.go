// Package tenant is what the owner of VMs does, without a terminal: pin a
// hypervisor, register a VM with it, seal tickets, and believe nothing but
// receipts that open. Package cli puts words and prompts around it.
//
// It trusts the state folder (package store), the pinned hypervisor key, and what opens
// under a bond. It trusts nothing that the server says: a claim of the server is
// at most shown, marked as unverified.
package tenant

import (
	"time"

	"github.com/uvbond/uvbond/tenant/store"
)

// Owner acts for the owner of the VMs in a state folder.
type Owner struct {
	Store *store.Store
	Now   func() time.Time // the client's clock
}

// NewOwner returns an owner with the machine's clock.
func NewOwner(s *store.Store) *Owner { return &Owner{Store: s, Now: time.Now} }
