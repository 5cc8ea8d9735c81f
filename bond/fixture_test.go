package bond

import (
	"bytes"
	"testing"
)

// The fixtures are what the committed vectors hold; changing them changes the
// vectors.

const fixtureTime = 1_800_000_000

// pattern returns n bytes that count up from start.
func pattern(n int, start byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = start + byte(i)
	}
	return b
}

func pattern32(start byte) [32]byte { return [32]byte(pattern(32, start)) }

func fixtureDisk(name string, boot bool, key byte) Disk {
	return Disk{
		Name: name, Bus: "virtio", Boot: boot, Discard: !boot, Cipher: CipherAESXTS,
		SectorSize: 4096, DataOffset: 16 << 20, Length: 256 << 20,
		UUID:      "3f2b7c9e-0d4a-4f6b-8a51-" + "0123456789" + "ab",
		Digest:    DiskDigest{Hash: "sha256", Iterations: 100_000, Salt: pattern(32, 1), Value: pattern(32, 2)},
		VolumeKey: NewSecret(pattern(64, key)),
	}
}

func fixtureRegistration() *Registration {
	return &Registration{
		Offered: []uint16{1}, Known: []uint16{1}, Chosen: 1, IssuedAt: fixtureTime,
		Secret: NewSecret(pattern(32, 0x40)),
		Spec: Spec{
			MemoryBytes: 1 << 30, VCPUs: 2, Firmware: "uefi", Machine: "q35",
			Disks: []Disk{fixtureDisk("root", true, 0x80), fixtureDisk("data", false, 0xa0)},
			NICs:  []NIC{{MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}, Model: "virtio"}},
		},
		Policy: "automaton status = query-status+ ;\n",
	}
}

// fullRegistration has every field that a registration can do without, too.
func fullRegistration() *Registration {
	r := fixtureRegistration()
	r.Spec.Screen = true
	r.Spec.ChannelMAC = [6]byte{0x52, 0x54, 0, 9, 9, 9}
	r.Spec.Seed = &Seed{NewSecret([]byte("#cloud-config\n")), NewSecret([]byte("instance-id: 1\n")), NewSecret(nil), NewSecret([]byte("version: 2\n"))}
	r.Spec.Disks[0].Base = &Base{SHA256: pattern32(9), Size: 100 << 20, Keyslot: Keyslot{Time: 4, Memory: 1 << 19, CPUs: 4, Salt: pattern(32, 5), Key: NewSecret(pattern(64, 6))}}
	return r
}

// fixtureMessages returns one message of every type that is sealed under K.
func fixtureMessages(transcript [32]byte) []Message {
	policy := "automaton pause = query-status* stop query-status* ;\n"
	prev := [32]byte{}
	first := (&AuditRecord{
		Seq: 0, Time: fixtureTime * 1000, Prev: prev, Kind: "registration", Who: "uid 990 pid 4711",
		Text: "registered", Fields: map[string]string{"policy": "none", "disks": "2"},
	}).Encode()
	mid := HashRecord(prev, first)
	second := (&AuditRecord{Seq: 1, Time: fixtureTime*1000 + 1, Prev: mid, Kind: "refused", Who: "uid 0 pid 1", Text: "screendump"}).Encode()
	head := HashRecord(mid, second)
	return []Message{
		&Confirmation{Transcript: transcript, Versions: []uint16{1}, HostTime: fixtureTime + 1, Policy: fixtureRegistration().Policy},
		&BootTicket{
			Nonce: pattern32(3), Command: "start", Automaton: "automaton start = uvbond-launch cont query-status* ;\n",
			NotBefore: fixtureTime, NotAfter: fixtureTime + 600, DeadlineSeconds: 30,
		},
		&Descriptor{Value: pattern32(4), Instance: 1, BootNonce: pattern32(3), StartedAt: fixtureTime + 2},
		&Ticket{
			Nonce: pattern32(5), Command: "allow", Automaton: "automaton allow = uvbond-set-policy ;\n",
			NotBefore: fixtureTime, NotAfter: fixtureTime + 600, Descriptor: pattern(32, 4), Policy: &policy,
		},
		&Receipt{
			Nonce: pattern32(5), Command: "pause", Instance: 1, Verdict: VerdictIncomplete, Class: "Refused",
			Reason: "expected stop or query-status, got screendump",
			Calls: []Call{
				{Command: "query-status", Arguments: "{}", Verdict: CallOK, Result: pattern32(6)},
				{Command: "screendump", Arguments: `{"filename":"/tmp/x"}`, Verdict: CallRefused, Detail: "not in the automaton"},
			},
			State: "running", HostTime: fixtureTime + 3, AuditSeq: 2, AuditHead: head,
		},
		&AuditChunk{Nonce: pattern32(7), From: 0, Records: [][]byte{first, second}, Head: head, Next: 2},
		&ConsoleChunk{Nonce: pattern32(8), Instance: 1, Offset: 10, Data: []byte("login: "), End: 17, Lost: 10},
		fixtureDelegation(),
	}
}

func fixtureDelegateKey() *DelegateKey {
	k, err := ParseDelegateKey(NewSecret(pattern(32, 0x60)))
	if err != nil {
		panic(err)
	}
	return k
}

func fixtureDelegation() *Delegation {
	// Not NewDelegation: it takes randomness, on whose order the vectors depend.
	p := fixtureDelegateKey().Public()
	d := &Delegation{ID: pattern32(9), Delegate: p.ID(), Signer: p.signer(), Name: "bob"}
	d.Policy = "rule reset = limit 3 per 1day ;\nautomaton reset = query-status* system_reset query-status* ;\n"
	d.IssuedAt, d.NotBefore, d.NotAfter = fixtureTime, fixtureTime, fixtureTime+86400
	return d
}

func fixtureDelegatedTicket() *DelegatedTicket {
	return &DelegatedTicket{
		Nonce: pattern32(10), Command: "reset", Automaton: "automaton reset = system_reset ;\n",
		NotBefore: fixtureTime, NotAfter: fixtureTime + 600, Instance: 1,
	}
}

func fixtureDelegatedReceipt() *DelegatedReceipt {
	return &DelegatedReceipt{
		Nonce: pattern32(10), Command: "reset", Instance: 1, Verdict: VerdictDone,
		Calls: []Call{{Command: "system_reset", Verdict: CallOK, Result: pattern32(6)}}, State: "running", HostTime: fixtureTime + 4,
	}
}

// blankMessages returns a zero message of every type, in the order of fixtureMessages.
func blankMessages() []Message {
	return []Message{
		new(Confirmation), new(BootTicket), new(Descriptor), new(Ticket), new(Receipt), new(AuditChunk), new(ConsoleChunk),
		new(Delegation),
	}
}

// fixtureBond makes a bond with fixed keys, without HPKE.
func fixtureBond(t testing.TB, vm byte) *Bond {
	t.Helper()
	h := Header{Version: 1, Tenant: TenantID(pattern32(0x10)), Host: HostID(pattern32(0x20)), VM: VMID(bytes.Repeat([]byte{vm}, 16))}
	key, err := bondKey(pattern32(vm), NewSecret(pattern(32, 1)), NewSecret(pattern(64, 2)))
	if err != nil {
		t.Fatal(err)
	}
	return newBond(h, pattern32(vm), key)
}

func mustSeal(t testing.TB, b *Bond, m Message) []byte {
	t.Helper()
	sealed, err := Seal(b, m)
	if err != nil {
		t.Fatalf("Seal(%s): %v", m.purpose(), err)
	}
	return sealed
}
