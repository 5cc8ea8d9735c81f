package bond

import "testing"

func BenchmarkOpenRegistration(b *testing.B) {
	p := newPair(b)
	sealed, _ := p.seal(b, fixtureRegistration())
	for b.Loop() {
		r, bond, err := OpenRegistration(p.host, sealed)
		if err != nil {
			b.Fatal(err)
		}
		r.Wipe()
		bond.Wipe()
	}
}

func BenchmarkOpenTicket(b *testing.B) {
	bond := fixtureBond(b, 1)
	sealed := mustSeal(b, bond, fixtureMessages([32]byte{})[3])
	for b.Loop() {
		if err := Open(bond, sealed, new(Ticket)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealReceipt(b *testing.B) {
	bond := fixtureBond(b, 1)
	m := fixtureMessages([32]byte{})[4]
	for b.Loop() {
		if _, err := Seal(bond, m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealConsole(b *testing.B) {
	bond := fixtureBond(b, 1)
	m := &ConsoleChunk{Data: make([]byte, MaxConsole), End: MaxConsole}
	b.SetBytes(MaxConsole)
	for b.Loop() {
		if _, err := Seal(bond, m); err != nil {
			b.Fatal(err)
		}
	}
}
