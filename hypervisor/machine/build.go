package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/build"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// Bounds of one uvbond-build. A step ends behind the piece in which one is used up.
var stepBudget = build.Budget{Bytes: 256 << 20, Time: 2 * time.Second}

const (
	// maxBuilders is how many steps run at once on the host. They take the
	// processors that they get; what VMs and the gate need must be left.
	maxBuilders = 2
	// turnPatience is how long a step waits for its turn. Then it answers that
	// nothing was done, which keeps the session's other side informed.
	turnPatience = 20 * time.Second
	// stuckPatience is how long a step may take to stop when the session has ended.
	stuckPatience = 3 * time.Second
)

// Build implements gate.VM. The work is done here, in the daemon, and not by a keeper:
// what comes from outside is hashed and enciphered and never interpreted, the
// state of the work and the key are the daemon's already, and a keeper would have
// to be started for each step. It runs beside everything else, bounded in time,
// memory and number; storage that does not answer costs its VM and one of the
// places, and nobody else anything. Of a storage it reads whether an export is empty
// and what was written last (takeUp), with the client that keepers use.
func (m *Machine) Build(ctx context.Context, g gate.Build) (*qmp.BuildState, error) {
	st, err := m.build(ctx, g)
	var q *qmp.Error
	if errors.As(err, &q) && q.Class == qmp.ClassInvalid {
		m.recordEntry(state.Entry{Kind: "refused", Who: "hypervisor", Text: "build: " + clip(q.Desc),
			Fields: map[string]string{"class": q.Class, "hypercall": qmp.CmdBuild}})
	}
	return st, err
}

// build takes over the files of g.
func (m *Machine) build(ctx context.Context, g gate.Build) (*qmp.BuildState, error) {
	b, made, err := m.toBuild(g.Disk)
	if b == nil {
		closeAll([]*os.File{g.Base, g.Image})
		return made, err
	}
	j, err := m.newJob(ctx, b, g)
	if err != nil {
		return nil, err
	}
	return m.doJob(ctx, j)
}

// doJob does it when its turn comes.
func (m *Machine) doJob(ctx context.Context, j *job) (*qmp.BuildState, error) {
	turn, err := m.takeTurn(ctx, j)
	if !turn || err != nil {
		j.close()
		now := j.build.look()
		return &now, err
	}
	done := make(chan error, 1)
	go func() {
		err := m.step(ctx, j)
		j.close()
		m.manager.endTurn(j)
		done <- err
	}()
	if err := wait(ctx, done); err != nil {
		return nil, m.notBuilt(j, err)
	}
	if err := m.keepBuild(j); err != nil {
		return nil, err
	}
	now := j.build.look()
	return &now, nil
}

// toBuild finds what is to be done: nothing when the disk is made, whatever came
// along, for what the guest has written since is its own.
func (m *Machine) toBuild(disk string) (b *diskBuild, made *qmp.BuildState, err error) {
	if b = m.builds[disk]; b == nil {
		return nil, nil, invalid("the VM has no disk %q that is made from a base image", clip(disk))
	}
	if now := b.look(); now.Phase == qmp.BuildDone {
		return nil, &now, nil
	}
	if m.occupied() {
		return nil, nil, &qmp.Error{Class: qmp.ClassRunning, Desc: "UVBond: the VM has an instance; a disk is made before the first start"}
	}
	return b, nil, nil
}

// errStuck says that a step did not stop when it had to.
var errStuck = errors.New("its storage does not answer")

// wait returns what done says, or errStuck when that does not come in time after
// the session has ended. The step's files and its turn stay its own then.
func wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stuckPatience):
		return errStuck
	}
}

func (m *Machine) occupied() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inst != nil || m.launching
}

// job is one step of a build.
type job struct {
	rec    *state.BondRecord
	disk   *bond.Disk
	plan   *build.Plan
	build  *diskBuild
	base   *os.File
	image  buildImage
	place  imagePlace // of image
	was    imagePlace // of what is written to, as recorded
	before build.State
	after  build.State
	wrong  [32]byte
	fresh  bool // nothing was recorded of this build
}

// newJob checks what was handed over, takes it over and takes up what is recorded.
func (m *Machine) newJob(ctx context.Context, b *diskBuild, g gate.Build) (*job, error) {
	j := &job{build: b, base: g.Base}
	if g.Image != nil {
		j.image = fileImage{g.Image}
	}
	if err := m.fillJob(ctx, j, g); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// close gives back all that a job holds, but its turn.
func (j *job) close() {
	if j.rec != nil {
		j.rec.Wipe()
	}
	j.base.Close()
	if j.image != nil {
		j.image.Close()
	}
}

func (m *Machine) fillJob(ctx context.Context, j *job, g gate.Build) (err error) {
	if j.rec, err = m.store.Bond(m.id); err != nil {
		return err
	}
	for i := range j.rec.Spec.Disks {
		if d := &j.rec.Spec.Disks[i]; d.Name == g.Disk && d.Base != nil {
			j.disk = d
		}
	}
	if j.disk == nil {
		return invalid("the VM has no disk %q that is made from a base image", clip(g.Disk))
	}
	j.plan = planOf(j.disk)
	if err := m.openImage(ctx, j, g); err != nil {
		return err
	}
	r, err := m.store.Build(m.id, g.Disk)
	if err != nil {
		return err
	}
	if r == nil {
		r, j.fresh = &state.BuildRecord{}, true
	}
	j.wrong, j.was = r.Wrong, imagePlace{r.Image, r.Storage, r.Export}
	j.before = build.State{Phase: build.Phase(r.Phase), Done: r.Done, Hash: r.Hash, Piece: r.Piece, Prefixes: r.Prefixes, Last: r.Last}
	return nil
}

// planOf says what a disk is made of and how.
func planOf(d *bond.Disk) *build.Plan {
	k := &d.Base.Keyslot
	return &build.Plan{SHA256: d.Base.SHA256, Size: d.Base.Size, Format: luks.FormatOptions{
		Derived:   &luks.Derived{KDF: luks.KDF{Type: "argon2id", Time: k.Time, MemoryKiB: k.Memory, Lanes: uint8(k.CPUs), Salt: k.Salt}, Key: k.Key.Bytes()},
		Digest:    &luks.Digest{Hash: d.Digest.Hash, Iterations: d.Digest.Iterations, Salt: d.Digest.Salt, Value: d.Digest.Value},
		VolumeKey: d.VolumeKey.Bytes(), SectorSize: d.SectorSize, UUID: d.UUID, DataSize: d.Length}}
}

// checkBases refuses a registration with a disk that cannot be made.
func checkBases(s *bond.Spec) error {
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.Base == nil {
			continue
		}
		if d.DataOffset != luks.DataOffset || d.IVTweak != 0 {
			return diskError(d.Name, fmt.Sprintf("made from a base image, its data begins at %d with IV tweak 0", luks.DataOffset))
		}
		if err := planOf(d).Validate(); err != nil {
			return diskError(d.Name, "it cannot be made from a base image: "+err.Error())
		}
	}
	return nil
}

// step works for a while.
func (m *Machine) step(ctx context.Context, j *job) error {
	stop := j.image.giveUp(ctx)
	defer stop()
	err := m.takeUp(j)
	if err == nil {
		j.after, err = build.Step(ctx, j.plan, j.before, j.base, j.image, stepBudget, j.build.set)
	}
	var image *build.ImageError
	if ctx.Err() != nil && errors.As(err, &image) {
		return ctx.Err() // that is why the image failed
	}
	return err
}

// keepBuild makes what was done durable, and tells it.
func (m *Machine) keepBuild(j *job) error {
	var entries []state.Entry
	if j.fresh {
		entries = append(entries, buildEntry(j, fmt.Sprintf("disk %s: a base image of %d bytes is being checked", j.disk.Name, j.plan.Size)))
	}
	if j.after.Phase == build.Done {
		entries = append(entries, buildEntry(j, fmt.Sprintf("disk %s was made from the base image with SHA-256 %x", j.disk.Name, j.plan.SHA256)))
	}
	if err := m.putBuild(j, entries...); err != nil {
		return err
	}
	j.build.put(j.after, j.wrong)
	return nil
}

func (m *Machine) putBuild(j *job, entries ...state.Entry) error {
	a := &j.after
	return m.store.PutBuild(m.id, j.disk.Name, &state.BuildRecord{Phase: int(a.Phase), Done: a.Done, Hash: a.Hash, Piece: a.Piece,
		Prefixes: a.Prefixes, Last: a.Last, Wrong: j.wrong, Image: j.was.inode, Storage: j.was.storage, Export: j.was.export}, entries...)
}

func buildEntry(j *job, text string) state.Entry {
	return state.Entry{Kind: "build", Who: "owner", Text: text, Fields: map[string]string{"disk": j.disk.Name, "sha256": fmt.Sprintf("%x", j.plan.SHA256)}}
}

// notBuilt says why a step failed. After a wrong base the build begins anew; after
// anything else it goes on where it was.
func (m *Machine) notBuilt(j *job, err error) error {
	var wrong *build.WrongError
	var base *build.BaseError
	var image *build.ImageError
	switch {
	case errors.As(err, &wrong):
		j.wrong = wrong.Have
		if err := m.putBuild(j); err != nil {
			return err
		}
		j.build.put(j.after, j.wrong)
		return diskError(j.disk.Name, err.Error()+"; nothing was written")
	case errors.Is(err, errStuck):
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: disk %s: %v", j.disk.Name, errStuck)}
	}
	j.build.put(j.before, j.wrong)
	switch {
	case errors.As(err, &base):
		return diskError(j.disk.Name, err.Error())
	case errors.As(err, &image):
		m.log.Error("a disk cannot be made: its image fails", "disk", j.disk.Name, "storage", j.place.storage, "export", j.place.export, "err", err)
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: disk %s: %v", j.disk.Name, j.place.failed(image))}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: disk %s: the session ended during a step, which is lost; the next goes on", j.disk.Name)}
	}
	return err
}

// takeTurn waits until the job may run, for a while.
func (m *Machine) takeTurn(ctx context.Context, j *job) (bool, error) {
	if err := m.manager.claimImage(j); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	select {
	case m.manager.builders <- struct{}{}:
		return true, nil
	case <-ctx.Done():
		m.manager.freeImage(j)
		return false, nil
	}
}

func (m *Manager) endTurn(j *job) {
	<-m.builders
	m.freeImage(j)
}
