package vm

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// nbdReconnectDelay is how many seconds QEMU keeps a guest's requests waiting for a
// keeper that has gone away before they fail as I/O errors.
const nbdReconnectDelay = 3600

// diskPorts is the number of disks on the AHCI controller that machine q35 has.
const diskPorts = 6

// commandLine is all that decides QEMU's arguments: the paths and descriptor numbers
// are those which QEMU will see. Rendering it is a pure function.
type commandLine struct {
	binary  string
	id      string
	accel   string
	machine string
	memory  uint64 // bytes
	vcpus   uint32
	disks   []diskLine
	nics    []nicLine
	screen  bool
	channel [6]byte // MAC of the network card for channels; zero: none
	// codeFD and varsFD hold the UEFI firmware and its variables; zero means SeaBIOS.
	codeFD, varsFD int
	monitorFD      int    // a listening unix socket
	console        string // a socket's path; empty means none
}

// diskLine is a disk with the path of its socket.
type diskLine struct {
	Disk
	socket string
}

// nicLine is a NIC with the descriptor of its tap device, or zero.
type nicLine struct {
	NIC
	tapFD int
}

// args returns the arguments, the binary first. Options that take JSON get JSON, so
// that nothing in a value is ever parsed as a further option.
func (c *commandLine) args() []string {
	a := &argList{list: []string{c.binary}}
	a.add("-name", "guest=uvbond-"+c.id)
	a.add("-uuid", uuid(c.id))
	// Nothing that is not named below: no default devices, no configuration file.
	a.add("-nodefaults")
	a.add("-no-user-config")
	// Started stopped, and a guest that switches itself off stays to be looked at.
	a.add("-S")
	a.add("-no-shutdown")
	a.add("-display", "none")
	a.add("-vga", "none") // what addScreen adds is all
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-machine", c.machineOption())
	a.add("-cpu", cpuModel(c.accel))
	a.add("-smp", fmt.Sprintf("cpus=%d,sockets=1,cores=%[1]d,threads=1", c.vcpus))
	a.add("-m", fmt.Sprintf("size=%dB", c.memory))
	c.addMemory(a)
	a.add("-rtc", "base=utc")
	// Only devices with a bootindex are tried: no floppy, no network.
	a.add("-boot", "menu=off,strict=on")
	c.addFirmware(a)
	a.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", c.monitorFD))
	a.add("-mon", "chardev=monitor,mode=control")
	c.addConsole(a)
	a.object("-object", options{{"qom-type", "rng-builtin"}, {"id", "rng0"}})
	a.object("-device", options{{"driver", "virtio-rng-pci"}, {"id", "random"}, {"rng", "rng0"}})
	c.addDisks(a)
	c.addNICs(a)
	// Last, so that a guest finds its other devices where they always were.
	c.addChannelNIC(a)
	c.addScreen(a)
	return a.list
}

func (c *commandLine) machineOption() string {
	// graphics=off makes SeaBIOS use the serial port as its console: alone, or beside
	// the display if there is one. It takes no display away.
	m := c.machine + ",accel=" + c.accel + ",usb=off,vmport=off,graphics=off,dump-guest-core=off"
	if c.codeFD != 0 {
		m += ",pflash0=firmware,pflash1=variables"
	}
	if c.shared() {
		m += ",memory-backend=ram"
	}
	return m
}

// shared tells whether the keeper works on guest memory.
func (c *commandLine) shared() bool {
	return slices.ContainsFunc(c.disks, func(d diskLine) bool { return d.VhostUser })
}

// addMemory makes guest memory that the keeper can map: a file without a name, of a
// size that is sealed, so that the keeper never finds less than it was told of.
// Pages are not merged with equal ones of other VMs, which would tell of these.
func (c *commandLine) addMemory(a *argList) {
	if !c.shared() {
		return
	}
	a.object("-object", options{
		{"qom-type", "memory-backend-memfd"},
		{"id", "ram"},
		{"size", c.memory},
		{"share", true},
		{"seal", true},
		{"merge", false},
		{"dump", false},
		{"prealloc", false},
	})
}

// cpuModel returns all that the host has under KVM. Under TCG it is the plain model:
// every feature more is one more to emulate, and one that offers AES makes a guest's
// own dm-crypt slower.
func cpuModel(accel string) string {
	if accel == AccelKVM {
		return "host"
	}
	return "qemu64"
}

func (c *commandLine) addFirmware(a *argList) {
	if c.codeFD == 0 {
		return
	}
	for _, f := range []struct {
		name     string
		fd, set  int
		readOnly bool
	}{{"firmware", c.codeFD, 1, true}, {"variables", c.varsFD, 2, false}} {
		a.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", f.fd, f.set))
		a.object("-blockdev", options{
			{"driver", "file"},
			{"node-name", f.name},
			{"filename", fmt.Sprintf("/dev/fdset/%d", f.set)},
			{"read-only", f.readOnly},
			{"locking", "off"}, // the descriptor is this QEMU's alone
		})
	}
}

func (c *commandLine) addConsole(a *argList) {
	if c.console == "" {
		a.add("-chardev", "null,id=console")
	} else {
		// QEMU dials again every second when the keeper was restarted.
		a.add("-chardev", "socket,id=console,path="+escapeCommas(c.console)+",reconnect=1")
	}
	a.object("-device", options{{"driver", "isa-serial"}, {"id", "serial0"}, {"chardev", "console"}, {"index", 0}})
}

func (c *commandLine) addDisks(a *argList) {
	for i := range c.disks {
		d := &c.disks[i]
		if d.VhostUser {
			// QEMU dials again every second when the keeper was restarted.
			a.add("-chardev", "socket,id=disk-"+d.Name+",path="+escapeCommas(d.socket)+",reconnect=1")
			continue
		}
		a.object("-blockdev", options{
			{"driver", "nbd"},
			{"node-name", "disk-" + d.Name},
			{"server", options{{"type", "unix"}, {"path", d.socket}}},
			{"export", d.Name},
			{"read-only", d.ReadOnly},
			{"discard", discardMode(d.Discard)},
			{"reconnect-delay", nbdReconnectDelay},
		})
	}
	var ide, sata int
	for i := range c.disks {
		d := &c.disks[i]
		switch d.Bus {
		case BusIDE:
			a.object("-device", d.device("ide-hd", fmt.Sprintf("ide.%d", ide/2), ide%2))
			ide++
		case BusSATA:
			if sata == diskPorts {
				a.object("-device", options{{"driver", "ich9-ahci"}, {"id", "ahci1"}})
			}
			a.object("-device", d.device("ide-hd", sataPort(sata), 0))
			sata++
		case BusNVMe:
			a.object("-device", d.device("nvme", "", 0))
		default:
			if d.VhostUser {
				a.object("-device", d.vhostDevice(Queues(c.vcpus)))
			} else {
				a.object("-device", d.device("virtio-blk-pci", "", 0))
			}
		}
	}
}

// sataPort names the n-th port: those of q35's own controller come first.
func sataPort(n int) string {
	if n < diskPorts {
		return fmt.Sprintf("ide.%d", n)
	}
	return fmt.Sprintf("ahci1.%d", n-diskPorts)
}

func discardMode(discard bool) string {
	if discard {
		return "unmap"
	}
	return "ignore"
}

// device returns the guest's side of the disk. The serial number is the disk's name,
// so that a guest can tell its disks apart whatever order they come in.
func (d *diskLine) device(driver, bus string, unit int) options {
	o := options{{"driver", driver}, {"id", "dev-" + d.Name}, {"drive", "disk-" + d.Name}, {"serial", d.Name}}
	if bus != "" {
		o = append(o, option{"bus", bus}, option{"unit", unit})
	}
	if driver == "virtio-blk-pci" {
		o = append(o, option{"discard", d.Discard})
	}
	if driver != "nvme" { // which always reports
		// Else QEMU stops the guest when storage is full: the guest is to see an
		// error, as by vhost-user, and only its owner stops it.
		o = append(o, option{"werror", "report"}, option{"rerror", "report"})
	}
	if d.Boot {
		o = append(o, option{"bootindex", 0})
	}
	return o
}

// vhostDevice is the guest's side of a disk that the keeper serves itself. The
// keeper knows the serial number, what the disk can do, and VIRTIO 1 only.
func (d *diskLine) vhostDevice(queues int) options {
	o := options{
		{"driver", "vhost-user-blk-pci"}, {"id", "dev-" + d.Name}, {"chardev", "disk-" + d.Name},
		{"num-queues", queues}, {"config-wce", true}, {"discard", d.Discard && !d.ReadOnly}, {"write-zeroes", !d.ReadOnly},
		{"disable-legacy", "on"},
	}
	if d.Boot {
		o = append(o, option{"bootindex", 0})
	}
	return o
}

func (c *commandLine) addNICs(a *argList) {
	for i := range c.nics {
		n := &c.nics[i]
		if n.tapFD != 0 {
			a.add("-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, n.tapFD))
		} else {
			// A hub with a single port: the guest sees a card whose frames go nowhere.
			a.add("-netdev", fmt.Sprintf("hubport,id=net%d,hubid=%[1]d", i))
		}
		a.object("-device", nicDevice(n.Model, fmt.Sprintf("nic%d", i), fmt.Sprintf("net%d", i), n.MAC))
	}
}

func nicDevice(model, id, netdev string, mac [6]byte) options {
	driver := "virtio-net-pci"
	if model == ModelE1000 {
		driver = "e1000"
	}
	return options{
		{"driver", driver},
		{"id", id},
		{"netdev", netdev},
		{"mac", macString(mac)},
		{"romfile", ""}, // no option ROM, which could boot from the network
	}
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// uuid writes 32 hexadecimal digits as a UUID.
func uuid(id string) string {
	return id[0:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32]
}

// escapeCommas quotes a value for QEMU's key=value options.
func escapeCommas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// argList collects arguments.
type argList struct{ list []string }

func (a *argList) add(args ...string) { a.list = append(a.list, args...) }

func (a *argList) object(name string, o options) { a.add(name, o.String()) }

// options is a JSON object that keeps its order, so that a rendered command line can
// be compared as text.
type options []option

type option struct {
	key   string
	value any
}

// String returns the JSON text. The values are strings, booleans, integers and options.
func (o options) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(e.key) + ":")
		switch v := e.value.(type) {
		case options:
			b.WriteString(v.String())
		default:
			text, err := json.Marshal(v)
			if err != nil {
				panic("vm: an option that is no JSON: " + err.Error())
			}
			b.Write(text)
		}
	}
	b.WriteByte('}')
	return b.String()
}

var (
	validID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
)
