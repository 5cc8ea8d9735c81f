package bond

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func wantInvalid(t *testing.T, name string, err error) {
	t.Helper()
	var bad *InvalidError
	if !errors.As(err, &bad) {
		t.Errorf("%s: %v", name, err)
	}
}

// TestMessageLimits breaks one rule at a time and checks both ends: Seal refuses to
// write it, and Open refuses to read it.
func TestMessageLimits(t *testing.T) {
	b := fixtureBond(t, 1)
	long := strings.Repeat("x", MaxAutomaton+1)
	type change = func(Message)
	for name, c := range map[string]struct {
		index  int
		change change
	}{
		"confirmation without versions": {0, func(m Message) { m.(*Confirmation).Versions = nil }},
		"confirmation long policy":      {0, func(m Message) { m.(*Confirmation).Policy = long }},
		"confirmation time":             {0, func(m Message) { m.(*Confirmation).HostTime = -1 }},
		"boot ticket nonce":             {1, func(m Message) { m.(*BootTicket).Nonce = [32]byte{} }},
		"boot ticket automaton":         {1, func(m Message) { m.(*BootTicket).Automaton = long }},
		"boot ticket no automaton":      {1, func(m Message) { m.(*BootTicket).Automaton = "" }},
		"boot ticket deadline":          {1, func(m Message) { m.(*BootTicket).DeadlineSeconds = MaxDeadline + 1 }},
		"descriptor instance":           {2, func(m Message) { m.(*Descriptor).Instance = 0 }},
		"descriptor value":              {2, func(m Message) { m.(*Descriptor).Value = [32]byte{} }},
		"ticket descriptor":             {3, func(m Message) { m.(*Ticket).Descriptor = make([]byte, 31) }},
		"ticket automaton":              {3, func(m Message) { m.(*Ticket).Automaton = long }},
		"ticket policy":                 {3, func(m Message) { m.(*Ticket).Policy = &long }},
		"ticket escape sequence":        {3, func(m Message) { m.(*Ticket).Automaton = "\x1b[2J" }},
		"ticket command":                {3, func(m Message) { m.(*Ticket).Command = "Pause" }},
		"ticket no command":             {3, func(m Message) { m.(*Ticket).Command = "" }},
		"ticket backwards":              {3, func(m Message) { m.(*Ticket).NotAfter = fixtureTime - 1 }},
		"ticket empty validity":         {3, func(m Message) { m.(*Ticket).NotAfter = fixtureTime }},
		"ticket too long validity":      {3, func(m Message) { m.(*Ticket).NotAfter = fixtureTime + 24*3600 + 1 }},
		"ticket overflow":               {3, func(m Message) { m.(*Ticket).NotBefore, m.(*Ticket).NotAfter = -1<<63, 1<<63-1 }},
		"receipt verdict":               {4, func(m Message) { m.(*Receipt).Verdict = "maybe" }},
		"receipt call verdict":          {4, func(m Message) { m.(*Receipt).Calls[0].Verdict = "" }},
		"receipt calls":                 {4, func(m Message) { m.(*Receipt).Calls = make([]Call, MaxCalls+1) }},
		"audit next":                    {5, func(m Message) { m.(*AuditChunk).Next = 3 }},
		"audit overflow":                {5, func(m Message) { m.(*AuditChunk).From = 1<<64 - 1 }},
		"audit record":                  {5, func(m Message) { m.(*AuditChunk).Records[0] = make([]byte, MaxRecord+1) }},
		"console end":                   {6, func(m Message) { m.(*ConsoleChunk).End = 16 }},
		"console offset":                {6, func(m Message) { m.(*ConsoleChunk).Offset = 1<<64 - 1 }},
		"console lost":                  {6, func(m Message) { m.(*ConsoleChunk).Lost = 11 }},
		"console data":                  {6, func(m Message) { m.(*ConsoleChunk).Data = make([]byte, MaxConsole+1) }},
	} {
		m := fixtureMessages(b.Transcript())[c.index]
		c.change(m)
		_, err := Seal(b, m)
		wantInvalid(t, name+", sealing", err)
		plain, err := encode(m, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantInvalid(t, name+", opening", Open(b, sealRaw(t, b, m.purpose(), plain), blankMessages()[c.index]))
	}
	// Texts of a receipt are cleaned by Seal, and refused by Open when they were not.
	for name, change := range map[string]func(*Receipt){
		"reason": func(r *Receipt) { r.Reason = "\x1b]0;x\a" }, "state": func(r *Receipt) { r.State = strings.Repeat("s", MaxState+1) },
		"class": func(r *Receipt) { r.Class = "a\nb" }, "detail": func(r *Receipt) { r.Calls[0].Detail = "\u202e" },
		"call": func(r *Receipt) { r.Calls[0].Command = strings.Repeat("q", 100) }, "arguments": func(r *Receipt) { r.Calls[0].Arguments = "\x00" },
	} {
		r := fixtureMessages(b.Transcript())[4].(*Receipt)
		change(r)
		plain, _ := encode(r, 0)
		wantInvalid(t, name, Open(b, sealRaw(t, b, PurposeReceipt, plain), new(Receipt)))
		if err := Open(b, mustSeal(t, b, r), new(Receipt)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpecLimits(t *testing.T) {
	for _, r := range []*Registration{fixtureRegistration(), fullRegistration()} {
		if err := r.Spec.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	base := func(change func(*Base)) func(*Spec) { return func(s *Spec) { change(s.Disks[0].Base) } }
	disk := func(change func(*Disk)) func(*Spec) { return func(s *Spec) { change(&s.Disks[1]) } }
	for name, change := range map[string]func(*Spec){
		"memory small":    func(s *Spec) { s.MemoryBytes = MinMemory - mebibyte },
		"memory large":    func(s *Spec) { s.MemoryBytes = MaxMemory + mebibyte },
		"memory odd":      func(s *Spec) { s.MemoryBytes++ },
		"no vcpus":        func(s *Spec) { s.VCPUs = 0 },
		"many vcpus":      func(s *Spec) { s.VCPUs = 256 },
		"firmware":        func(s *Spec) { s.Firmware = "coreboot" },
		"machine":         func(s *Spec) { s.Machine = "microvm" },
		"no disks":        func(s *Spec) { s.Disks = nil },
		"nine disks":      func(s *Spec) { s.Disks = make([]Disk, 9) },
		"nine nics":       func(s *Spec) { s.NICs = make([]NIC, 9) },
		"no boot disk":    func(s *Spec) { s.Disks[0].Boot = false },
		"boot second":     func(s *Spec) { s.Disks[0].Boot, s.Disks[1].Boot = false, true },
		"two boot":        func(s *Spec) { s.Disks[1].Boot = true },
		"same name":       func(s *Spec) { s.Disks[1].Name = "root" },
		"same volume key": func(s *Spec) { s.Disks[1].VolumeKey = s.Disks[0].VolumeKey.Clone() },
		"name capital":    disk(func(d *Disk) { d.Name = "Data" }),
		"name long":       disk(func(d *Disk) { d.Name = strings.Repeat("d", 17) }),
		"name comma":      disk(func(d *Disk) { d.Name = "a,file=/etc/passwd" }),
		"name newline":    disk(func(d *Disk) { d.Name = "data\n" }),
		"bus":             disk(func(d *Disk) { d.Bus = "usb" }),
		"ide on q35":      disk(func(d *Disk) { d.Bus = "ide" }),
		"ide with uefi":   func(s *Spec) { s.Machine, s.Disks[1].Bus = "pc", "ide" },
		"sata on pc":      func(s *Spec) { s.Machine, s.Disks[1].Bus = "pc", "sata" },
		"sata read-only":  disk(func(d *Disk) { d.Bus, d.ReadOnly = "sata", true }),
		"null cipher":     disk(func(d *Disk) { d.Cipher = "cipher_null-ecb" }),
		"sector size":     disk(func(d *Disk) { d.SectorSize = 1000 }),
		"no sector size":  disk(func(d *Disk) { d.SectorSize = 0 }),
		"offset odd":      disk(func(d *Disk) { d.DataOffset++ }),
		"offset huge":     disk(func(d *Disk) { d.DataOffset = 1 << 63 }),
		"no length":       disk(func(d *Disk) { d.Length = 0 }),
		"length odd":      disk(func(d *Disk) { d.Length++ }),
		"length huge":     disk(func(d *Disk) { d.Length = 1 << 63 }),
		"tweak huge":      disk(func(d *Disk) { d.IVTweak = 1<<64 - 1 }),
		"uuid":            disk(func(d *Disk) { d.UUID = "x" }),
		"hash":            disk(func(d *Disk) { d.Digest.Hash = "" }),
		"no iterations":   disk(func(d *Disk) { d.Digest.Iterations = 0 }),
		"iterations":      disk(func(d *Disk) { d.Digest.Iterations = maxIterations + 1 }),
		"salt":            disk(func(d *Disk) { d.Digest.Salt = nil }),
		"value":           disk(func(d *Disk) { d.Digest.Value = make([]byte, 65) }),
		"no key":          disk(func(d *Disk) { d.VolumeKey = nil }),
		"key length":      disk(func(d *Disk) { d.VolumeKey = RandomSecret(48) }),
		"key halves":      disk(func(d *Disk) { d.VolumeKey = NewSecret(bytes.Repeat([]byte{7}, 64)) }),
		"nic model":       func(s *Spec) { s.NICs[0].Model = "rtl8139" },
		"nic multicast":   func(s *Spec) { s.NICs[0].MAC[0] |= 1 },
		"nic zero":        func(s *Spec) { s.NICs[0].MAC = [6]byte{} },
		"nic twice":       func(s *Spec) { s.NICs = append(s.NICs, s.NICs[0]) },
		"channel mac":     func(s *Spec) { s.ChannelMAC[0] |= 1 },
		"channel twice":   func(s *Spec) { s.ChannelMAC = s.NICs[0].MAC },
		"seed":            func(s *Spec) { s.Seed.UserData = NewSecret(make([]byte, MaxSeed)) },
		"base empty":      base(func(b *Base) { b.Size = 0 }),
		"base long":       base(func(b *Base) { b.Size = 1 << 40 }),
		"base passes":     base(func(b *Base) { b.Keyslot.Time = 0 }),
		"base lanes":      base(func(b *Base) { b.Keyslot.CPUs = 256 }),
		"base memory":     base(func(b *Base) { b.Keyslot.Memory = maxArgonBytes + 1 }),
		"base little":     base(func(b *Base) { b.Keyslot.Memory = 7 }),
		"base salt":       base(func(b *Base) { b.Keyslot.Salt = nil }),
		"base key":        base(func(b *Base) { b.Keyslot.Key = nil }),
	} {
		s := fullRegistration().Spec
		change(&s)
		wantInvalid(t, name, s.Validate())
	}
	ide := fixtureRegistration().Spec
	ide.Machine, ide.Firmware = "pc", "bios"
	ide.Disks = nil
	for i := range 5 {
		d := fixtureDisk("d"+string(rune('0'+i)), i == 0, byte(i*8))
		d.Bus = "ide"
		ide.Disks = append(ide.Disks, d)
	}
	wantInvalid(t, "five ide", ide.Validate())
	ide.Disks = ide.Disks[:4]
	if err := ide.Validate(); err != nil {
		t.Errorf("four ide: %v", err)
	}
}

func TestValidity(t *testing.T) {
	ticket := fixtureMessages([32]byte{})[3].(*Ticket)
	boot := fixtureMessages([32]byte{})[1].(*BootTicket)
	for _, c := range []struct {
		now int64
		off time.Duration
	}{{fixtureTime - 3600, -time.Hour}, {fixtureTime, 0}, {fixtureTime + 600, 0}, {fixtureTime + 601, time.Second}} {
		for _, err := range []error{ticket.CheckValidity(c.now), boot.CheckValidity(c.now)} {
			var v *ValidityError
			if errors.As(err, &v) != (c.off != 0) {
				t.Errorf("at %d: %v", c.now, err)
			}
			if v != nil && (v.Off() != c.off || v.Now != c.now || v.NotBefore != fixtureTime || !strings.Contains(v.Error(), "2027-01-15T")) {
				t.Errorf("at %d: off by %s: %v", c.now, v.Off(), v)
			}
		}
	}
	r := fixtureRegistration()
	for now, ok := range map[int64]bool{fixtureTime - 301: false, fixtureTime - 300: true, fixtureTime + 86400: true, fixtureTime + 86401: false} {
		if err := r.CheckValidity(now); (err == nil) != ok {
			t.Errorf("registration at %+d: %v", now-fixtureTime, err)
		}
	}
}

func TestDescriptorMatches(t *testing.T) {
	d := NewDescriptor(1, NewNonce(), fixtureTime)
	v := slices.Clone(d.Value[:])
	if !d.Matches(v) || d.Matches(nil) || d.Matches(v[:31]) {
		t.Error("Matches is wrong")
	}
	v[31] ^= 1
	if d.Matches(v) {
		t.Error("another value matches")
	}
	d.Wipe()
	if d.Value != [32]byte{} {
		t.Error("Wipe left the value")
	}
}

func TestCleanText(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"plain", 10, "plain"}, {"", 5, ""}, {"exactly", 7, "exactly"}, {"too long", 7, "too ..."},
		{"a\x1b[31mb", 20, "a\uFFFD[31mb"}, {"a\nb", 10, "a\uFFFDb"}, {"\xff\xfe", 10, "\uFFFD"},
		{"ééééé", 7, "éé..."}, {"x", 0, ""}, {"日本語テキスト", 10, "日本..."}, {"\u202eevil", 20, "\uFFFDevil"},
		{strings.Repeat("\xff", 50), 10, "\uFFFD..."},
	} {
		if got := CleanText(c.in, c.max); got != c.want {
			t.Errorf("CleanText(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
	if got := CallArguments([]byte(`{"a":1}`)); got != `{"a":1}` {
		t.Errorf("CallArguments = %q", got)
	}
	long := CallArguments(bytes.Repeat([]byte("x"), MaxArguments+1))
	if !strings.HasPrefix(long, "sha256:") || len(long) != 7+64 || CallArguments([]byte(long)) != long {
		t.Errorf("CallArguments of a long text = %q", long)
	}
}

func FuzzCleanText(f *testing.F) {
	f.Add("plain", 10)
	f.Add("\x1b[31m\xff日本", 7)
	f.Fuzz(func(t *testing.T, s string, max int) {
		if max < 0 || max > 4096 {
			return
		}
		got := CleanText(s, max)
		if !utf8.ValidString(got) || validText("x", got, max) != nil || CleanText(got, max) != got {
			t.Errorf("CleanText(%q, %d) = %q", s, max, got)
		}
	})
}
