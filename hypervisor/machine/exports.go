package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/qmp"
)

// exports are an instance's disks that are on a storage, by their name. They do not
// change while it lives.
type exports map[string]export

// export is one of them.
type export struct {
	storage *storage.Storage // nil: the configuration has it no more
	state.DiskExport
}

// findExports checks what the management domain says of storages. A name that the
// configuration does not have is refused: there are no addresses here.
func (m *Manager) findExports(said []qmp.DiskExport) (exports, error) {
	on := exports{}
	places := map[[2]string]string{}
	for _, x := range said {
		s := m.cfg.Storages[x.Storage]
		switch {
		case len(said) > bond.MaxDisks:
			return nil, invalid("%d exports", len(said))
		case s == nil:
			return nil, invalid("the hypervisor's configuration has no storage %q", clip(x.Storage))
		case !storage.ValidExport(x.Export):
			return nil, invalid("an export cannot be named %q", clip(x.Export))
		}
		if _, twice := on[x.Name]; twice {
			return nil, invalid("two exports are for disk %q", clip(x.Name))
		}
		place := [2]string{x.Storage, x.Export}
		if other, taken := places[place]; taken {
			return nil, diskError(clip(x.Name), "it is the same export as disk "+other)
		}
		places[place] = clip(x.Name)
		on[x.Name] = export{s, state.DiskExport{Disk: x.Name, Storage: x.Storage, Export: x.Export}}
	}
	return on, nil
}

// recordedExports finds them again after a restart.
func (m *Manager) recordedExports(recorded []state.DiskExport) exports {
	on := exports{}
	for _, x := range recorded {
		s := m.cfg.Storages[x.Storage]
		if s == nil {
			m.cfg.Log.Error("a running VM's disk is on a storage that the configuration has no more: put it back and start the daemon again",
				"storage", x.Storage, "disk", x.Disk)
		}
		on[x.Disk] = export{s, x}
	}
	return on
}

func (e exports) record() []state.DiskExport {
	var out []state.DiskExport
	for _, x := range e {
		out = append(out, x.DiskExport)
	}
	slices.SortFunc(out, func(a, b state.DiskExport) int { return strings.Compare(a.Disk, b.Disk) })
	return out
}

func (e exports) forKeeper(disk string) *keeper.StorageConfig {
	x, ok := e[disk]
	if !ok || x.storage == nil {
		return nil
	}
	return x.storage.ForKeeper(x.Export)
}

// checkExports holds disks on storages against the registration, as checkDisks
// does with files.
func (m *Machine) checkExports(ctx context.Context, disks []bond.Disk, on exports) error {
	for name := range on {
		i := slices.IndexFunc(disks, func(d bond.Disk) bool { return d.Name == name })
		if i < 0 {
			return invalid("the registration has no disk %q", clip(name))
		}
		if err := m.checkExport(ctx, &disks[i], on[name]); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) checkExport(ctx context.Context, d *bond.Disk, x export) error {
	if x.storage == nil {
		return diskError(d.Name, "the configuration has no storage "+x.Storage+" any more")
	}
	c, err := x.storage.Look(ctx, x.Export, int(d.SectorSize), d.ReadOnly)
	if err != nil {
		m.log.Error("a disk's storage cannot be used", "disk", d.Name, "storage", x.Storage, "export", x.Export, "err", err)
		why := "storage " + x.Storage + " cannot be reached or has no such export; the hypervisor's log has the reason"
		if errors.Is(err, nbdclient.ErrRefused) {
			why = "storage " + x.Storage + ": " + err.Error()
		}
		return diskError(d.Name, why)
	}
	defer c.Close()
	return checkHeader(d, c, c.Size())
}

// giveConnections makes the descriptors that a keeper begins with, those of disks
// on storages among them; done closes what is the daemon's no more.
func (i *instance) giveConnections() (files map[string]*os.File, done func(), err error) {
	files = map[string]*os.File{}
	for name, f := range i.currentFiles() {
		files[name] = f
	}
	var theirs []*os.File
	done = func() { closeAll(theirs) }
	for name, x := range i.exports {
		f, err := i.connectionsFor(x)
		if err != nil {
			done()
			return nil, nil, err
		}
		files[name] = f
		theirs = append(theirs, f)
	}
	return files, done, nil
}

// connectionsFor returns a socket on which a keeper may ask for connections to x.
func (i *instance) connectionsFor(x export) (*os.File, error) {
	if x.storage == nil {
		return nil, fmt.Errorf("disk %s is on storage %s, which the configuration has no more", x.Disk, x.Storage)
	}
	ours, theirs, err := keeper.ConnectionSocket()
	if err != nil {
		return nil, err
	}
	m := i.machine
	m.manager.work.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-i.let:
			case <-ctx.Done():
			}
			cancel()
		}()
		keeper.ServeConnections(ctx, ours, func(ctx context.Context) (net.Conn, nbdclient.Offer, error) {
			return x.storage.Connect(ctx, x.Export)
		})
	})
	return theirs, nil
}

// renewConnections tells an adopted keeper where to ask for connections from now
// on, and forgets the sockets that it had for that among its files.
func (i *instance) renewConnections(ctx context.Context, k *keeper.Process) {
	for name, x := range i.exports {
		if f := i.files[name]; f != nil {
			f.Close()
			delete(i.files, name)
		}
		f, err := i.connectionsFor(x)
		if err == nil {
			err = k.Connections(ctx, name, f)
			f.Close()
		}
		if err != nil {
			i.machine.log.Error("keeper gets no new connections to a storage", "disk", name, "storage", x.Storage, "err", err)
		}
	}
}
