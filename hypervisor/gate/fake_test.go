package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// fakeVM is a VM that remembers what reached it.
type fakeVM struct {
	id     bond.VMID
	bond   *bond.Bond
	owner  *bond.Bond // the owner's own, which the gate cannot wipe
	change chan struct{}
	now    func() int64

	mu       sync.Mutex
	policy   *policy.Policy
	used     map[string][]int64
	revoked  map[[32]byte]bool
	until    int64    // all issued until then are revoked
	pauses   []*Pause // of the executed hypercalls
	cur      Current
	executed []string
	entries  []state.Entry
	nonces   map[[32]byte]bool
	fail     map[string]error
	channels []Channel
	streams  []*os.File // the connections of channels
	deleted  bool
	killed   string
	answers  map[string]json.RawMessage // to Execute, in the place of {}
	events   []chan qmp.Event
}

func (v *fakeVM) ID() bond.VMID    { return v.id }
func (v *fakeVM) Bond() *bond.Bond { return v.bond }
func (v *fakeVM) State() string    { return "running" }
func (v *fakeVM) Policy() *policy.Policy {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.policy
}
func (v *fakeVM) Current() Current {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cur
}
func (v *fakeVM) AcquireChange(ctx context.Context) error {
	select {
	case v.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ErrBusy
	}
}
func (v *fakeVM) ReleaseChange() { <-v.change }
func (v *fakeVM) UseTicket(n [32]byte, _ int64, e state.Entry) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nonces[n] {
		return ErrReplayed
	}
	v.nonces[n] = true
	v.entries = append(v.entries, e)
	return nil
}
func (v *fakeVM) RefuseTicket(n [32]byte, expiry int64, e state.Entry) error {
	return v.UseTicket(n, expiry, e)
}
func (v *fakeVM) Record(e ...state.Entry) (uint64, [32]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.entries = append(v.entries, e...)
	return uint64(len(v.entries)), [32]byte{1}, nil
}
func (v *fakeVM) Launch(_ context.Context, l Launch, nonce [32]byte) error {
	for _, f := range l.Disks {
		f.Close()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.executed = append(v.executed, qmp.CmdLaunch)
	v.cur = Current{Number: v.cur.Number + 1, Live: true, Descriptor: bond.Descriptor{Value: [32]byte{7}, Instance: v.cur.Number + 1, BootNonce: nonce}}
	return nil
}
func (v *fakeVM) Status(context.Context) (qmp.StatusResult, error) {
	return qmp.StatusResult{Status: "running", Running: true}, nil
}
func (v *fakeVM) Events() (<-chan qmp.Event, func()) {
	c := make(chan qmp.Event, 8)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, c)
	return c, sync.OnceFunc(func() {
		v.mu.Lock() // whoever sends holds it
		defer v.mu.Unlock()
		close(c)
	})
}
func (v *fakeVM) Count(u Use, e state.Entry) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := state.UseName(u.Delegation, u.Name)
	now := v.now()
	if err := u.Rule.Allows(u.Name, v.used[name], now); err != nil {
		return err
	}
	if v.used == nil {
		v.used = map[string][]int64{}
	}
	v.used[name] = append(v.used[name], now)
	v.entries = append(v.entries, e)
	return nil
}
func (v *fakeVM) Execute(_ context.Context, _ uint64, command string, _ any, p *Pause) (json.RawMessage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if a, ok := v.answers[command]; ok {
		return a, nil
	}
	if err := v.fail[command]; err != nil {
		return nil, err
	}
	v.executed, v.pauses = append(v.executed, command), append(v.pauses, p)
	return json.RawMessage("{}"), nil
}
func (v *fakeVM) Kill(_ uint64, reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.killed, v.cur.Live = reason, false
}
func (v *fakeVM) Channel(_ context.Context, ch Channel) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail[qmp.CmdChannel]; err != nil {
		return err
	}
	fd, err := unix.FcntlInt(ch.Conn.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	ch.Conn = nil
	v.channels, v.streams = append(v.channels, ch), append(v.streams, os.NewFile(uintptr(fd), "channel"))
	return nil
}
func (v *fakeVM) ReadConsole(offset uint64) (*bond.ConsoleChunk, error) {
	return &bond.ConsoleChunk{Instance: 1, Offset: offset, Data: []byte("hello"), End: offset + 5}, nil
}
func (v *fakeVM) ReadAudit(uint64) (*bond.AuditChunk, error) {
	return &bond.AuditChunk{From: 1, Next: 1}, nil
}
func (v *fakeVM) SetPolicy(text string) error {
	m, err := CheckPolicy(text)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policy = m
	return nil
}
func (v *fakeVM) Build(_ context.Context, b Build) (*qmp.BuildState, error) {
	defer b.Base.Close()
	defer b.Image.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail[qmp.CmdBuild]; err != nil {
		return nil, err
	}
	to := fmt.Sprint(b.Image != nil)
	if b.Place != nil {
		to = b.Place.Storage + ":" + b.Place.Export
	}
	v.executed = append(v.executed, fmt.Sprintf("build %s from %t to %s", b.Disk, b.Base != nil, to))
	return &qmp.BuildState{Disk: b.Disk, Phase: qmp.BuildDone, Done: 7, Total: 7}, nil
}

func (v *fakeVM) Grow(_ context.Context, g Grow) (*qmp.GrowResult, error) {
	if g.File != nil {
		g.File.Close()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.executed = append(v.executed, fmt.Sprintf("grow %s to %d, file %t", g.Disk, g.Size, g.File != nil))
	return &qmp.GrowResult{Old: 1 << 20, New: g.Size, Guest: qmp.GuestTold}, nil
}
func (v *fakeVM) Delegated(id [32]byte, issued int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.revoked[id] || issued <= v.until {
		return state.ErrRevoked
	}
	return nil
}
func (v *fakeVM) Revoke(id [32]byte, until int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.revoked == nil {
		v.revoked = map[[32]byte]bool{}
	}
	v.revoked[id], v.until = true, max(v.until, until)
	return nil
}
func (v *fakeVM) Delete(e state.Entry) (uint64, [32]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail[qmp.CmdDelete]; err != nil {
		return 0, [32]byte{}, err
	}
	v.deleted = true
	v.entries = append(v.entries, e)
	return uint64(len(v.entries)), [32]byte{2}, nil
}

func (v *fakeVM) isDeleted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.deleted
}

func (v *fakeVM) setLive(live bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cur.Live = live
}

func (v *fakeVM) ran() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.executed)
}

// recorded tells whether the audit holds an entry of a kind and class.
func (v *fakeVM) recorded(kind, class string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.entries, func(e state.Entry) bool {
		return e.Kind == kind && (class == "" || e.Fields["class"] == class)
	})
}

// fakeHost has any number of fake VMs.
type fakeHost struct {
	vms map[bond.VMID]*fakeVM
	now func() int64

	mu       sync.Mutex
	attempts []state.Entry
	limits   qmp.DiskLimits
}

func (h *fakeHost) Attempt(e state.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts = append(h.attempts, e)
}

func (h *fakeHost) QueryHost() qmp.QueryHostResult {
	return qmp.QueryHostResult{Versions: bond.Supported}
}
func (h *fakeHost) Register(context.Context, []byte, string) (*qmp.RegisterResult, error) {
	return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: no"}
}
func (h *fakeHost) QueryVMs() qmp.QueryVMsResult { return qmp.QueryVMsResult{} }
func (h *fakeHost) Attach(_ context.Context, _ bond.VMID, disks map[string]*os.File, _ string) error {
	for _, f := range disks {
		f.Close()
	}
	return nil
}
func (h *fakeHost) QueryDisks(_ context.Context, id bond.VMID) (*qmp.QueryDisksResult, error) {
	if h.vms[id] == nil {
		return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: no bond"}
	}
	return &qmp.QueryDisksResult{Disks: []qmp.DiskState{{Name: "root", Limits: h.limits}}}, nil
}
func (h *fakeHost) SetLimits(_ context.Context, _ bond.VMID, _ string, l qmp.DiskLimits, _ string) error {
	h.limits = l
	return nil
}
func (h *fakeHost) VM(id bond.VMID) VM {
	if v, ok := h.vms[id]; ok {
		return v
	}
	return nil
}
func (h *fakeHost) Now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now()
}

func (h *fakeHost) setNow(now func() int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = now
}

// fixture is a gate with two VMs of two bonds.
type fixture struct {
	t    *testing.T
	host *fakeHost
	a, b *fakeVM
	path string
	stop func() // ends the gate
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, host: &fakeHost{vms: map[bond.VMID]*fakeVM{}, now: func() int64 { return time.Now().Unix() }}}
	key, err := bond.GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	f.a, f.b = f.bonded(key), f.bonded(key)
	f.path = filepath.Join(t.TempDir(), "gate.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	own := uint32(os.Geteuid())
	go func() {
		defer close(served)
		_ = New(f.host, func(uid uint32) bool { return uid == own }, slog.New(slog.DiscardHandler)).Serve(ctx, l)
	}()
	f.stop = func() { cancel(); <-served }
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) bonded(key *bond.HostKey) *fakeVM {
	f.t.Helper()
	reg := &bond.Registration{
		Offered: bond.Supported, Chosen: bond.Version, IssuedAt: time.Now().Unix(), Secret: bond.RandomSecret(32),
		Spec: bond.Spec{MemoryBytes: 64 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc", Disks: []bond.Disk{{
			Name: "root", Bus: "virtio", Boot: true, Cipher: "aes-xts-plain64", SectorSize: 512, DataOffset: 16 << 20, Length: 16 << 20,
			UUID:      "11111111-2222-3333-4444-555555555555",
			Digest:    bond.DiskDigest{Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Value: make([]byte, 32)},
			VolumeKey: bond.RandomSecret(64),
		}}},
	}
	_, b, err := bond.SealRegistration(key.Public(), bond.NewTenantID(), bond.NewVMID(), reg)
	if err != nil {
		f.t.Fatal(err)
	}
	none, err := CheckPolicy("")
	if err != nil {
		f.t.Fatal(err)
	}
	owner, err := bond.ImportBond(b.Export())
	if err != nil {
		f.t.Fatal(err)
	}
	v := &fakeVM{id: b.VM(), now: f.host.Now, bond: b, owner: owner, policy: none, change: make(chan struct{}, 1), nonces: map[[32]byte]bool{}, fail: map[string]error{},
		cur: Current{Number: 3, Live: true, Descriptor: bond.Descriptor{Value: [32]byte{3, 1}, Instance: 3}}}
	f.host.vms[v.id] = v
	return v
}

func (f *fixture) dial() *qmp.Client {
	f.t.Helper()
	c, err := qmp.Dial(f.t.Context(), f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

// ticket makes a ticket of v for a shipped command; change may bend it.
func (f *fixture) ticket(v *fakeVM, command string, change func(*bond.Ticket)) ([]byte, *bond.Ticket) {
	f.t.Helper()
	text, err := automata.Native(command)
	if err != nil {
		f.t.Fatal(err)
	}
	now := f.host.now()
	t := &bond.Ticket{Command: command, Automaton: text, NotBefore: now - 60, NotAfter: now + 300, DeadlineSeconds: 60}
	copy(t.Nonce[:], bond.RandomSecret(32).Bytes())
	switch command {
	case "status", "log", "audit", "allow", "delete":
	default:
		t.Descriptor = slices.Clone(v.cur.Descriptor.Value[:])
	}
	if change != nil {
		change(t)
	}
	sealed, err := bond.Seal(v.bond, t)
	if err != nil {
		f.t.Fatal(err)
	}
	return sealed, t
}

// receipt opens a sealed receipt as the owner would.
func (f *fixture) receipt(v *fakeVM, sealed []byte, t *bond.Ticket) *bond.Receipt {
	f.t.Helper()
	var r bond.Receipt
	if err := bond.Open(v.owner, sealed, &r); err != nil {
		f.t.Fatalf("receipt does not open: %v", err)
	}
	if r.Nonce != t.Nonce {
		f.t.Fatal("the receipt is for another ticket")
	}
	return &r
}
