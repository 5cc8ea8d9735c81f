package state

import (
	"bytes"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
)

// TestEncodeLeavesNoCopy: the buffer of the largest bond does not grow, which would leave
// copies of its keys and of its seed in memory.
func TestEncodeLeavesNoCopy(t *testing.T) {
	host, err := bond.GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRecord(host, 0x55)
	if err != nil {
		t.Fatal(err)
	}
	full := bytes.Repeat([]byte{7}, bond.MaxSeed)
	r.Spec.Seed = &bond.Seed{UserData: bond.NewSecret(full), MetaData: bond.NewSecret(full), VendorData: bond.NewSecret(full), NetworkConfig: bond.NewSecret(full)}
	r.Spec.Disks[0].Name = strings.Repeat("n", 64)
	for len(r.Spec.Disks) < bond.MaxDisks {
		r.Spec.Disks = append(r.Spec.Disks, r.Spec.Disks[0])
	}
	for len(r.Spec.NICs) < bond.MaxNICs {
		r.Spec.NICs = append(r.Spec.NICs, r.Spec.NICs[0])
	}
	export := r.Bond.Export()
	w := newBondWire(r, export)
	b, err := encode(w)
	if err != nil {
		t.Fatal(err)
	}
	if cap(b) != w.encodedSize() {
		t.Errorf("%d bytes in a buffer of %d that began with %d", len(b), cap(b), w.encodedSize())
	}
}
