package vm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// validate refuses what cannot be rendered or what QEMU would refuse less clearly. The
// registration was validated before; this is the last check before a process starts.
func (s *LaunchSpec) validate() error {
	if !validID.MatchString(s.ID) {
		return fmt.Errorf("vm id %q is not 32 lower-case hexadecimal digits", s.ID)
	}
	if s.Slot < 0 || s.Slot > 1<<20 {
		return fmt.Errorf("slot %d is out of range", s.Slot)
	}
	if s.MemoryBytes < 1<<20 || s.VCPUs < 1 || s.VCPUs > 255 {
		return fmt.Errorf("%d bytes of memory and %d vCPUs: at least 1 MiB and 1 to 255 vCPUs are needed", s.MemoryBytes, s.VCPUs)
	}
	if s.Machine != MachinePC && s.Machine != MachineQ35 {
		return fmt.Errorf("machine %q is not known: use %q or %q", s.Machine, MachinePC, MachineQ35)
	}
	if s.Network != nil && !isRoot() {
		return errors.New("only root enters network namespaces")
	}
	if s.Firmware != FirmwareBIOS && s.Firmware != FirmwareUEFI {
		return fmt.Errorf("firmware %q is not known: use %q or %q", s.Firmware, FirmwareBIOS, FirmwareUEFI)
	}
	if err := s.validateDisks(); err != nil {
		return err
	}
	return s.validateNICs()
}

func (s *LaunchSpec) validateDisks() error {
	seen := make(map[string]bool)
	var boot, ide, sata int
	for i := range s.Disks {
		d := &s.Disks[i]
		if !validName.MatchString(d.Name) || seen[d.Name] {
			return fmt.Errorf("disk name %q is not valid, or not the only one", d.Name)
		}
		seen[d.Name] = true
		if err := checkPath(s.DiskSockets[d.Name]); err != nil {
			return fmt.Errorf("socket of disk %s: %w", d.Name, err)
		}
		if err := s.validateBus(d); err != nil {
			return err
		}
		switch d.Bus {
		case BusIDE:
			ide++
		case BusSATA:
			sata++
		}
		if d.Boot {
			boot++
		}
	}
	switch {
	case ide > 4:
		return fmt.Errorf("%d IDE disks: there is room for 4", ide)
	case sata > 2*diskPorts:
		return fmt.Errorf("%d SATA disks: there is room for %d", sata, 2*diskPorts)
	case boot > 1:
		return fmt.Errorf("%d boot disks: there can be one", boot)
	}
	if s.ConsoleSocket != "" {
		if err := checkPath(s.ConsoleSocket); err != nil {
			return fmt.Errorf("socket of the console: %w", err)
		}
	}
	return nil
}

func (s *LaunchSpec) validateBus(d *Disk) error {
	switch d.Bus {
	case BusVirtio, BusNVMe:
	case BusIDE:
		if s.Machine != MachinePC {
			return fmt.Errorf("disk %s: bus ide needs machine pc", d.Name)
		}
		if s.Firmware == FirmwareUEFI {
			return fmt.Errorf("disk %s: bus ide needs firmware bios", d.Name)
		}
	case BusSATA:
		if s.Machine != MachineQ35 {
			return fmt.Errorf("disk %s: bus sata needs machine q35", d.Name)
		}
	default:
		return fmt.Errorf("disk %s: bus %q is not known", d.Name, d.Bus)
	}
	if d.VhostUser && d.Bus != BusVirtio {
		return fmt.Errorf("disk %s: vhost-user needs bus virtio", d.Name)
	}
	if d.ReadOnly && (d.Bus == BusIDE || d.Bus == BusSATA) {
		return fmt.Errorf("disk %s: a read-only disk needs bus virtio or nvme, ATA disks are always writable", d.Name)
	}
	return nil
}

func (s *LaunchSpec) validateNICs() error {
	for i := range s.NICs {
		n := &s.NICs[i]
		if n.Model != ModelVirtio && n.Model != ModelE1000 {
			return fmt.Errorf("network card %d: model %q is not known: use %q or %q", i, n.Model, ModelVirtio, ModelE1000)
		}
		if n.MAC == ([6]byte{}) || n.MAC[0]&1 != 0 {
			return fmt.Errorf("network card %d: %s is not a unicast address", i, macString(n.MAC))
		}
	}
	if s.ChannelMAC[0]&1 != 0 {
		return fmt.Errorf("network card for channels: %s is not a unicast address", macString(s.ChannelMAC))
	}
	if len(s.TapFiles) > len(s.NICs) {
		return fmt.Errorf("%d tap devices for %d network cards", len(s.TapFiles), len(s.NICs))
	}
	return nil
}

// maxSocketPath is the length of sun_path without its final zero, unix(7).
const maxSocketPath = 107

func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("no path given")
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return fmt.Errorf("path %q is not absolute and clean", path)
	case strings.ContainsAny(path, "\x00\n"):
		return fmt.Errorf("path %q holds a character that it must not", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("path %q is longer than %d bytes", path, maxSocketPath)
	}
	return nil
}
