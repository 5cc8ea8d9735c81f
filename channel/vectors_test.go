package channel

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"os"
	"testing"
	"testing/cryptotest"

	"github.com/flynn/noise"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// bytesHex is a byte string that is hexadecimal in JSON.
type bytesHex []byte

func (b bytesHex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *bytesHex) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

func load(t *testing.T, file string, v any) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

// TestNoiseVectors holds the library, and this package's use of the keys that it
// derives, against vectors that others published.
func TestNoiseVectors(t *testing.T) {
	var vectors []struct {
		Source    string
		Initiator bytesHex `json:"init_ephemeral"`
		Responder bytesHex `json:"resp_ephemeral"`
		Prologue  bytesHex
		PSK       bytesHex
		Messages  []struct{ Payload, Ciphertext bytesHex }
	}
	load(t, "testdata/noise.json", &vectors)
	if len(vectors) != 5 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for i, v := range vectors {
		side := func(initiator bool, ephemeral []byte) *noise.HandshakeState {
			hs, err := noise.NewHandshakeState(noise.Config{
				CipherSuite: suite, Pattern: noise.HandshakeNN, Initiator: initiator, Random: bytes.NewReader(ephemeral),
				Prologue: v.Prologue, PresharedKey: v.PSK, PresharedKeyPlacement: 0,
			})
			if err != nil {
				t.Fatal(err)
			}
			return hs
		}
		a, b := side(true, v.Initiator), side(false, v.Responder)
		first, _, _, err := a.WriteMessage(nil, v.Messages[0].Payload)
		if err != nil || !bytes.Equal(first, v.Messages[0].Ciphertext) {
			t.Fatalf("vector %d: first message %x, %v", i, first, err)
		}
		if _, _, _, err := b.ReadMessage(nil, first); err != nil {
			t.Fatal(err)
		}
		second, toHost, toTenant, err := b.WriteMessage(nil, v.Messages[1].Payload)
		if err != nil || !bytes.Equal(second, v.Messages[1].Ciphertext) {
			t.Fatalf("vector %d: second message %x, %v", i, second, err)
		}
		keyA, keyB := toHost.UnsafeKey(), toTenant.UnsafeKey()
		directions := []*direction{newDirection(&keyA), newDirection(&keyB)}
		for j, m := range v.Messages[2:] {
			nonce := noiseNonce(uint64(j / 2))
			got := directions[j%2].now.Load().aead.Seal(nil, nonce[:], m.Payload, nil)
			if !bytes.Equal(got, m.Ciphertext) {
				t.Errorf("vector %d: message %d: %x", i, j+2, got)
			}
		}
	}
}

// TestRekeyIsNoise holds the change of keys against the library's REKEY.
func TestRekeyIsNoise(t *testing.T) {
	key := [32]byte{1, 2, 3}
	cs := noise.UnsafeNewCipherState(suite, key, 0)
	d := newDirection(&key)
	if key != [32]byte{} {
		t.Error("the key was not wiped")
	}
	e := d.now.Load()
	for range 3 {
		cs.Rekey()
		e = e.after()
		cs.SetNonce(77)
		want, err := cs.Encrypt(nil, nil, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		nonce := noiseNonce(77)
		if got := e.aead.Seal(nil, nonce[:], []byte("payload"), nil); !bytes.Equal(got, want) {
			t.Errorf("epoch %d: %x, want %x", e.number, got, want)
		}
	}
}

// ownVectors is testdata/vectors.json: what both ends sent in one channel.
type ownVectors struct {
	Comment    string   `json:"comment"`
	Key        bytesHex `json:"channel_key"`
	VM         bytesHex `json:"vm"`
	Descriptor bytesHex `json:"descriptor"`
	Nonce      bytesHex `json:"nonce"`
	Kind       string   `json:"kind"`
	Port       uint16   `json:"port"`
	Prologue   bytesHex `json:"prologue"`
	Tenant     []said   `json:"tenant"`
	Hypervisor []said   `json:"hypervisor"`
}

// said is a handshake's message or a record.
type said struct {
	What    string   `json:"what"`
	Payload bytesHex `json:"payload"`
	Wire    bytesHex `json:"wire"`
}

// TestVectors shows that the wire format did not change by a bit. If only this test fails after an
// upgrade of Go, the standard library uses its randomness in another order.
func TestVectors(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	p := params()
	v := ownVectors{
		Comment: "Written by go test ./channel -run TestVectors -update. All keys in here are public.",
		Key:     p.Key.Bytes(), VM: p.VM[:], Descriptor: p.Descriptor, Nonce: p.Nonce[:], Kind: p.Kind, Port: p.Port, Prologue: p.prologue(),
	}
	hear := func(to *[]said) func(int, []byte) [][]byte {
		return func(n int, piece []byte) [][]byte {
			*to = append(*to, said{Wire: piece})
			return [][]byte{piece}
		}
	}
	o := &operator{toHost: hear(&v.Tenant), toTenant: hear(&v.Hypervisor)}
	tenant, host := opened2(t, o)
	go func() {
		tenant.Write([]byte("ls\n"))
		tenant.ping()
		tenant.CloseWrite()
	}()
	if _, err := io.ReadAll(host); err != nil {
		t.Fatal(err)
	}
	go func() {
		host.Write([]byte("lost+found\n"))
		host.CloseWith("the instance ended")
	}()
	if _, err := io.ReadAll(tenant); WhyOf(err) != Ended {
		t.Fatal(err)
	}
	o.end()
	for i, m := range []said{{What: "first message"}, {What: "data", Payload: []byte("ls\n")}, {What: "ping"}, {What: "end"}} {
		v.Tenant[i].What, v.Tenant[i].Payload = m.What, m.Payload
	}
	for i, m := range []said{{What: "second message"}, {What: "data", Payload: []byte("lost+found\n")}, {What: "close", Payload: []byte("the instance ended")}} {
		v.Hypervisor[i].What, v.Hypervisor[i].Payload = m.What, m.Payload
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/vectors.json"
	if raw = append(raw, '\n'); *update {
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (make it with: go test ./channel -run TestVectors -update)", err)
	}
	if !bytes.Equal(have, raw) {
		t.Errorf("a channel made from fixed randomness differs from the committed one:\n%s", raw)
	}
}

// TestPrologue: the layout that docs/protocol.md gives, and no two channels alike.
func TestPrologue(t *testing.T) {
	p := params()
	got := p.prologue()
	want := "7576626f6e64207631206368616e6e656c" + "0001" + "01020300000000000000000000000000" +
		"0909090909090909090909090909090909090909090909090909090909090909" +
		"0500000000000000000000000000000000000000000000000000000000000000" + "0016" + "07" + "666f7277617264"
	if hex.EncodeToString(got) != want {
		t.Errorf("prologue %x\nwant     %s", got, want)
	}
}
