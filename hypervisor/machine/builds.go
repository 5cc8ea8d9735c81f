package machine

import (
	"fmt"
	"sync"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/build"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// diskBuild is how far a disk is made, for those who ask. What counts is in the store.
type diskBuild struct {
	name string
	want [32]byte // SHA-256 of the base
	busy bool     // a step is under way; guarded by the manager's mu

	mu    sync.Mutex
	state qmp.BuildState
	wrong [32]byte // digest of the last base that was not the owner's
}

// newBuilds finds the disks of spec that are made from base images, at their beginning.
func newBuilds(spec *bond.Spec) map[string]*diskBuild {
	builds := map[string]*diskBuild{}
	for i := range spec.Disks {
		if d := &spec.Disks[i]; d.Base != nil {
			builds[d.Name] = &diskBuild{name: d.Name, want: d.Base.SHA256,
				state: qmp.BuildState{Disk: d.Name, Phase: qmp.BuildCheck, Total: d.Base.Size}}
		}
	}
	return builds
}

// loadBuilds takes up what earlier daemons recorded.
func (m *Machine) loadBuilds() error {
	for name, b := range m.builds {
		r, err := m.store.Build(m.id, name)
		if err != nil {
			return err
		}
		if r != nil {
			b.put(build.State{Phase: build.Phase(r.Phase), Done: r.Done}, r.Wrong)
		}
	}
	return nil
}

func (b *diskBuild) look() qmp.BuildState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// set tells what a step has done so far, before that is durable.
func (b *diskBuild) set(done uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Done = done
}

// put tells what is recorded.
func (b *diskBuild) put(st build.State, wrong [32]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Phase, b.state.Done, b.wrong = phases[st.Phase], st.Done, wrong
	if st.Phase == build.Done {
		b.state.Done = b.state.Total
	}
}

var phases = map[build.Phase]string{build.Check: qmp.BuildCheck, build.Write: qmp.BuildWrite, build.Done: qmp.BuildDone}

// unbuilt lists the disks that are still to be made, in the registration's order.
func (m *Machine) unbuilt() []qmp.BuildState {
	var out []qmp.BuildState
	for _, name := range m.disks {
		if b := m.builds[name]; b != nil {
			if st := b.look(); st.Phase != qmp.BuildDone {
				out = append(out, st)
			}
		}
	}
	return out
}

// checkBuilt refuses to launch a VM with a disk that is not made yet.
func (m *Machine) checkBuilt() error {
	for _, st := range m.unbuilt() {
		b := m.builds[st.Disk]
		r, err := m.store.Build(m.id, st.Disk)
		switch {
		case err != nil:
			return err
		case r == nil:
			return b.notBuilt("it is to be made from its base image first")
		case r.Phase == state.BuildCheck && r.Wrong != [32]byte{}:
			return b.notBuilt(fmt.Sprintf("it was to be made from an image with another SHA-256 than its owner's (%x, not %x)", r.Wrong, b.want))
		case r.Phase != state.BuildDone:
			return b.notBuilt(fmt.Sprintf("it is not made yet from its base image (%s: %d of %d bytes)", st.Phase, st.Done, st.Total))
		}
	}
	return nil
}

func (b *diskBuild) notBuilt(why string) error {
	return &qmp.Error{Class: qmp.ClassNotBuilt, Desc: "UVBond: disk " + b.name + ": " + why}
}
