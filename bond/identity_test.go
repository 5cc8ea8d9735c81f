package bond

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestIdentityText(t *testing.T) {
	vm, tenant := NewVMID(), NewTenantID()
	if got, err := ParseVMID(vm.String()); err != nil || got != vm {
		t.Errorf("vm: %v, %v", got, err)
	}
	if got, err := ParseTenantID(tenant.String()); err != nil || got != tenant {
		t.Errorf("tenant: %v, %v", got, err)
	}
	if got, err := ParseHostID(HostID(tenant).String()); err != nil || got != HostID(tenant) {
		t.Errorf("host: %v, %v", got, err)
	}
	type all struct {
		V VMID
		T TenantID
		H HostID
	}
	in := all{vm, tenant, HostID(tenant)}
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out all
	if err := json.Unmarshal(raw, &out); err != nil || in != out {
		t.Errorf("json: %s, %v", raw, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("A", 32), strings.Repeat("g", 32), "0x" + strings.Repeat("0", 30)} {
		if _, err := ParseVMID(bad); err == nil {
			t.Errorf("ParseVMID accepts %q", bad)
		}
	}
}

func TestFingerprint(t *testing.T) {
	id := HostID(pattern32(0xf0))
	fp := id.Fingerprint()
	if want := 7 + 13*4 + 12; len(fp) != want || !strings.HasPrefix(fp, "SHA256:") {
		t.Errorf("fingerprint %q", fp)
	}
	for _, s := range []string{fp, strings.ToLower(fp), strings.ReplaceAll(fp, "-", ""), strings.ReplaceAll(fp, "-", " "), strings.TrimPrefix(fp, "SHA256:")} {
		if got, err := ParseFingerprint(s); err != nil || got != id {
			t.Errorf("ParseFingerprint(%q): %v", s, err)
		}
	}
	last := fp[:len(fp)-1]
	for _, bad := range []string{"", "SHA256:", last, fp + "A", strings.Replace(fp, fp[8:9], "1", 1), last + string(fp[len(fp)-1]+1)} {
		if _, err := ParseFingerprint(bad); err == nil {
			t.Errorf("ParseFingerprint accepts %q", bad)
		}
	}
}

func TestHostKey(t *testing.T) {
	k, err := GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	s := k.Secret()
	again, err := ParseHostKey(s)
	if err != nil {
		t.Fatal(err)
	}
	if again.Public().ID() != k.Public().ID() {
		t.Error("another identity after parsing")
	}
	p, err := ParseHostPublic(k.Public().Bytes())
	if err != nil || p.ID() != k.Public().ID() || p.Fingerprint() != p.ID().Fingerprint() {
		t.Errorf("public key: %v", err)
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := ParseHostKey(RandomSecret(n)); err == nil {
			t.Errorf("host key of %d bytes accepted", n)
		}
	}
	for _, n := range []int{0, HostPublicSize - 1, HostPublicSize + 1} {
		if _, err := ParseHostPublic(make([]byte, n)); err == nil {
			t.Errorf("public key of %d bytes accepted", n)
		}
	}
	bad := k.Public().Bytes()
	for i := range 1152 {
		bad[i] = 0xff // coefficients above the modulus
	}
	if _, err := ParseHostPublic(bad); err == nil {
		t.Error("public key with coefficients out of range accepted")
	}
	k.Wipe()
	if s.Len() != HostKeySize {
		t.Error("wiping the key wiped the copy")
	}
}
