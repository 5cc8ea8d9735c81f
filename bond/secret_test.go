package bond

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// TestSecretNeverPrinted prints every type that holds a secret in every way and looks
// for the bytes in any usual form.
func TestSecretNeverPrinted(t *testing.T) {
	raw := []byte("correct horse battery staple 32b")
	s := NewSecret(raw)
	r := fixtureRegistration()
	r.Secret = s
	r.Spec.Disks[0].VolumeKey = s
	host, err := ParseHostKey(s)
	if err != nil {
		t.Fatal(err)
	}
	b := newBond(Header{Version: 1}, [32]byte{}, s)
	d := Descriptor{Value: [32]byte(raw), Instance: 1}
	ticket := Ticket{Command: "pause", Descriptor: raw}
	private := struct{ hidden Secret }{*s}
	values := map[string]any{
		"*Secret": s, "Secret": *s, "[]*Secret": []*Secret{s}, "map": map[string]*Secret{"k": s}, "hidden": private, "&hidden": &private,
		"*Registration": r, "Registration": *r, "Disk": r.Spec.Disks[0], "Spec": &r.Spec, "*HostKey": host, "*Bond": b,
		"*Descriptor": &d, "Descriptor": d, "*Ticket": &ticket, "Ticket": ticket,
	}
	base := base64.StdEncoding.EncodeToString(raw)
	forms := []string{
		base,
		string(raw), hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		strings.Trim(fmt.Sprint(raw), "[]"), fmt.Sprintf("%#v", raw)[8:30],
	}
	check := func(name, out string) {
		t.Helper()
		for _, f := range forms {
			if strings.Contains(out, f) {
				t.Errorf("%s shows the secret: %.60s", name, out)
			}
		}
	}
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			check(name+" "+verb, fmt.Sprintf(verb, v))
		}
		var text, jsonText bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v)
		check(name+" slog text", text.String())
		slog.New(slog.NewJSONHandler(&jsonText, nil)).Info("m", "v", v)
		check(name+" slog json", jsonText.String())
	}
	if got := fmt.Sprint(s); got != "[secret]" {
		t.Errorf("prints %q", got)
	}
}

func TestSecretNeverMarshalled(t *testing.T) {
	s := RandomSecret(32)
	for name, v := range map[string]any{"*Secret": s, "Secret": *s, "Registration": fixtureRegistration(), "Disk": fixtureDisk("a", true, 1)} {
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("%s: json %s", name, out)
		}
		if out, err := cbor.Marshal(v); err == nil {
			t.Errorf("%s: cbor %x", name, out)
		}
	}
	if out, err := s.MarshalText(); err == nil {
		t.Errorf("text %s", out)
	}
	if out, err := s.MarshalBinary(); err == nil {
		t.Errorf("binary %x", out)
	}
}

func TestSecret(t *testing.T) {
	raw := []byte{1, 2, 3}
	s := NewSecret(raw)
	Wipe(raw)
	if !bytes.Equal(s.Bytes(), []byte{1, 2, 3}) {
		t.Error("NewSecret does not copy")
	}
	c := s.Clone()
	if !s.Equal(c) || s.Equal(NewSecret([]byte{1, 2, 4})) || s.Equal(NewSecret([]byte{1, 2})) || s.Equal(nil) {
		t.Error("Equal is wrong")
	}
	live := s.Bytes()
	s.Wipe()
	s.Wipe()
	if !bytes.Equal(live, []byte{0, 0, 0}) || s.Len() != 0 || c.Len() != 3 {
		t.Error("Wipe is wrong")
	}
	var none *Secret
	none.Wipe()
	if none.Len() != 0 || none.Clone().Len() != 0 {
		t.Error("a nil secret is not empty")
	}
	if RandomSecret(32).Equal(RandomSecret(32)) {
		t.Error("two random secrets are equal")
	}
}
