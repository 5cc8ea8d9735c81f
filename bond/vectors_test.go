package bond

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"testing/cryptotest"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

const vectorsFile = "testdata/vectors.json"

// vectors is testdata/vectors.json; all byte strings are hexadecimal. The file is
// for other implementations too, so it has the values between as well.
type vectors struct {
	Comment       string          `json:"comment"`
	Version       uint16          `json:"version"`
	HostKey       string          `json:"host_key"`
	HostPublic    string          `json:"host_public"`
	Host          HostID          `json:"host"`
	Fingerprint   string          `json:"fingerprint"`
	Tenant        TenantID        `json:"tenant"`
	VM            VMID            `json:"vm"`
	Registration  vectorMessage   `json:"registration"`
	Secret        string          `json:"registration_secret"`
	BootVolumeKey string          `json:"boot_volume_key"`
	Transcript    string          `json:"transcript"`
	BondKey       string          `json:"bond_key"`
	ChannelKey    string          `json:"channel_key"`
	Bond          string          `json:"stored_bond"`
	Messages      []vectorMessage `json:"messages"`
	Delegate      vectorDelegate  `json:"delegate"`
}

// vectorDelegate has what goes between owner, delegate and hypervisor.
type vectorDelegate struct {
	Key           string        `json:"key"`
	Public        string        `json:"public"`
	ID            DelegateID    `json:"id"`
	DelegationKey string        `json:"delegation_key"`
	Grant         vectorMessage `json:"grant"`
	StoredGrant   string        `json:"stored_grant"`
	Ticket        vectorMessage `json:"ticket"` // plaintext: what is signed, without its label and header
	Receipt       vectorMessage `json:"receipt"`
}

type vectorMessage struct {
	Purpose Purpose `json:"purpose"`
	AAD     string  `json:"associated_data"`
	Key     string  `json:"purpose_key,omitempty"`
	Plain   string  `json:"plaintext"`
	Sealed  string  `json:"sealed"`
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	raw, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatalf("%v (make it with: go test ./bond -run TestVectors -update)", err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Messages) != len(blankMessages()) || v.Registration.Sealed == "" || v.Delegate.Ticket.Sealed == "" {
		t.Fatalf("%s has %d messages, want %d and a registration", vectorsFile, len(v.Messages), len(blankMessages()))
	}
	return &v
}

// generateVectors makes all vectors from fixed randomness.
func generateVectors(t *testing.T) *vectors {
	cryptotest.SetGlobalRandom(t, 1)
	host, err := GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	tenant, vm := NewTenantID(), NewVMID()
	r := fixtureRegistration()
	sealed, b, err := SealRegistration(host.Public(), tenant, vm, r)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	transcript := b.Transcript()
	v := &vectors{
		Comment: "Written by go test ./bond -run TestVectors -update. All keys in here are public.",
		Version: Version, HostKey: hex.EncodeToString(host.Secret().Bytes()), HostPublic: hex.EncodeToString(host.Public().Bytes()),
		Host: host.Public().ID(), Fingerprint: host.Public().Fingerprint(), Tenant: tenant, VM: vm,
		Registration: vectorMessage{
			Purpose: PurposeRegistration, AAD: hex.EncodeToString(b.header(PurposeRegistration).associatedData()),
			Plain: hex.EncodeToString(plain), Sealed: hex.EncodeToString(sealed),
		},
		Secret: hex.EncodeToString(r.Secret.Bytes()), BootVolumeKey: hex.EncodeToString(r.Spec.Disks[0].VolumeKey.Bytes()),
		Transcript: hex.EncodeToString(transcript[:]), BondKey: hex.EncodeToString(b.key.Bytes()),
		Bond: hex.EncodeToString(b.Export().Bytes()),
	}
	for _, m := range fixtureMessages(transcript) {
		v.Messages = append(v.Messages, vectorOf(t, b, m))
	}
	v.Delegate = delegateVectors(t, b)
	v.ChannelKey = channelKeyOf(t, b)
	return v
}

func channelKeyOf(t *testing.T, b *Bond) string {
	key, err := b.ChannelKey()
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(key.Bytes())
}

func delegateVectors(t *testing.T, b *Bond) vectorDelegate {
	k := fixtureDelegateKey()
	sealed, err := SealGrant(b, k.Public(), fixtureDelegation())
	if err != nil {
		t.Fatal(err)
	}
	g, err := OpenGrant(k, sealed)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := g.SealTicket(k, fixtureDelegatedTicket())
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDelegated(b, ticket)
	if err != nil {
		t.Fatal(err)
	}
	r := fixtureDelegatedReceipt()
	receipt, err := d.SealReceipt(r)
	if err != nil {
		t.Fatal(err)
	}
	message := func(p Purpose, plain any, sealed []byte) vectorMessage {
		m := vectorMessage{Purpose: p, AAD: hex.EncodeToString(b.header(p).associatedData()), Plain: hex.EncodeToString(mustEncode(plain)), Sealed: hex.EncodeToString(sealed)}
		if p != PurposeGrant {
			key, err := purposeKey(g.key, p)
			if err != nil {
				t.Fatal(err)
			}
			m.Key = hex.EncodeToString(key)
		}
		return m
	}
	return vectorDelegate{
		Key: hex.EncodeToString(k.Secret().Bytes()), Public: hex.EncodeToString(k.Public().Bytes()), ID: k.Public().ID(),
		DelegationKey: hex.EncodeToString(g.key.Bytes()), StoredGrant: hex.EncodeToString(g.Export().Bytes()),
		Grant:   message(PurposeGrant, wireGrant{Capability: g.capability, Key: g.key.Bytes(), Terms: g.terms}, sealed),
		Ticket:  message(PurposeDelegatedTicket, fixtureDelegatedTicket(), ticket),
		Receipt: message(PurposeDelegatedReceipt, r, receipt),
	}
}

func vectorOf(t *testing.T, b *Bond, m Message) vectorMessage {
	plain, err := encode(m, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := purposeKey(b.key, m.purpose())
	if err != nil {
		t.Fatal(err)
	}
	return vectorMessage{
		Purpose: m.purpose(), AAD: hex.EncodeToString(b.header(m.purpose()).associatedData()),
		Key: hex.EncodeToString(key), Plain: hex.EncodeToString(plain), Sealed: hex.EncodeToString(mustSeal(t, b, m)),
	}
}

// TestVectorsRegenerate shows that the wire format did not change by a bit. If only
// this test fails after an upgrade of Go, the standard library uses its randomness in another
// order: TestVectorsOpen still proves the format; then run with -update.
func TestVectorsRegenerate(t *testing.T) {
	raw, err := json.MarshalIndent(generateVectors(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, '\n')
	if *update {
		if err := os.WriteFile(vectorsFile, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, raw) {
		t.Error("vectors made from fixed randomness differ from the committed ones")
	}
}

func TestVectorsOpen(t *testing.T) {
	v := loadVectors(t)
	host, err := ParseHostKey(NewSecret(unhex(t, v.HostKey)))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(host.Public().Bytes()); got != v.HostPublic {
		t.Error("host public key differs")
	}
	if host.Public().ID() != v.Host || host.Public().Fingerprint() != v.Fingerprint {
		t.Error("host identity differs")
	}
	r, b, err := OpenRegistration(host, unhex(t, v.Registration.Sealed))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := fixtureRegistration().Export()
	if got, _ := r.Export(); !got.Equal(want) {
		t.Error("registration differs from what was sealed")
	}
	tr := b.Transcript()
	if hex.EncodeToString(tr[:]) != v.Transcript || hex.EncodeToString(b.key.Bytes()) != v.BondKey {
		t.Error("transcript or K differs")
	}
	if channelKeyOf(t, b) != v.ChannelKey {
		t.Error("channel key differs")
	}
	if b.Tenant() != v.Tenant || b.Host() != v.Host || b.VM() != v.VM || b.Version() != v.Version {
		t.Error("identities differ")
	}
	stored, err := ImportBond(NewSecret(unhex(t, v.Bond)))
	if err != nil {
		t.Fatal(err)
	}
	wantMessages := fixtureMessages(tr)
	for i, m := range blankMessages() {
		vm := v.Messages[i]
		if vm.Purpose != m.purpose() {
			t.Fatalf("vector %d is for %s, want %s", i, vm.Purpose, m.purpose())
		}
		if err := Open(stored, unhex(t, vm.Sealed), m); err != nil {
			t.Errorf("%s: %v", vm.Purpose, err)
		}
		if !sameMessage(m, wantMessages[i]) {
			t.Errorf("%s: opened message differs from what was sealed", vm.Purpose)
		}
	}
}

// sameMessage compares encodings: an empty list and none are the same there.
func sameMessage(a, b Message) bool {
	x, err1 := encode(a, 0)
	y, err2 := encode(b, 0)
	return err1 == nil && err2 == nil && reflect.TypeOf(a) == reflect.TypeOf(b) && bytes.Equal(x, y)
}
