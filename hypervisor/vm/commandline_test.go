package vm

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden command lines anew")

// goldenLine has one of everything that its parameters allow.
func goldenLine(machine, firmware, bus, model, accel string) *commandLine {
	c := &commandLine{
		binary: DefaultBinary, id: testID, accel: accel, machine: machine, memory: 512 << 20, vcpus: 2,
		monitorFD: 4, console: "/sockets/0/console.sock",
		disks: []diskLine{
			{Disk: Disk{Name: "root", Bus: bus, Boot: true}, socket: "/sockets/0/root.sock"},
			{Disk: Disk{Name: "data", Bus: bus, Discard: true}, socket: "/sockets/0/data.sock"},
			{Disk: Disk{Name: "tools", Bus: BusVirtio, ReadOnly: true}, socket: "/sockets/1/tools.sock"},
		},
		nics: []nicLine{
			{NIC: NIC{MAC: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Model: model}, tapFD: 7},
			{NIC: NIC{MAC: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x57}, Model: model}},
		},
	}
	if firmware == FirmwareUEFI {
		c.codeFD, c.varsFD = 5, 6
	}
	return c
}

// vhostLine has disks that the keeper serves by vhost-user; the one that is booted
// from only with KVM.
func vhostLine(machine, firmware, accel string) *commandLine {
	c := goldenLine(machine, firmware, BusVirtio, ModelVirtio, accel)
	for i := range c.disks {
		c.disks[i].VhostUser = accel == AccelKVM || !c.disks[i].Boot
	}
	return c
}

// TestGolden compares every combination that a registration can ask for with its
// recorded text, one argument a line.
func TestGolden(t *testing.T) {
	seen := 0
	for _, machine := range []string{MachinePC, MachineQ35} {
		for _, firmware := range []string{FirmwareBIOS, FirmwareUEFI} {
			for _, bus := range []string{BusVirtio, BusIDE, BusSATA, BusNVMe} {
				if bus == BusIDE && (machine != MachinePC || firmware != FirmwareBIOS) || bus == BusSATA && machine != MachineQ35 {
					continue
				}
				for _, model := range []string{ModelVirtio, ModelE1000} {
					for _, accel := range []string{AccelKVM, AccelTCG} {
						seen++
						name := strings.Join([]string{machine, firmware, bus, model, accel}, "-")
						compareGolden(t, name, goldenLine(machine, firmware, bus, model, accel).args())
					}
				}
			}
		}
	}
	for _, machine := range []string{MachinePC, MachineQ35} {
		for _, firmware := range []string{FirmwareBIOS, FirmwareUEFI} {
			for _, accel := range []string{AccelKVM, AccelTCG} {
				seen++
				compareGolden(t, strings.Join([]string{machine, firmware, "vhost", accel}, "-"), vhostLine(machine, firmware, accel).args())
			}
		}
	}
	for _, machine := range []string{MachinePC, MachineQ35} {
		for _, firmware := range []string{FirmwareBIOS, FirmwareUEFI} {
			for _, model := range []string{ModelVirtio, ModelE1000} {
				seen++
				c := goldenLine(machine, firmware, BusVirtio, model, AccelTCG)
				c.screen, c.channel = true, channelMAC
				compareGolden(t, strings.Join([]string{machine, firmware, "channels", model}, "-"), c.args())
			}
		}
	}
	if files, err := filepath.Glob("testdata/*.args"); err != nil || len(files) != seen {
		t.Errorf("%d golden files for %d combinations (%v)", len(files), seen, err)
	}
}

func compareGolden(t *testing.T, name string, args []string) {
	t.Helper()
	path := filepath.Join("testdata", name+".args")
	have := strings.Join(args, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("%s differs; look at it and run the test with -update:\n%s", path, have)
	}
}

// TestNeverRendered looks for what no combination may hold.
func TestNeverRendered(t *testing.T) {
	for _, firmware := range []string{FirmwareBIOS, FirmwareUEFI} {
		for _, bus := range []string{BusVirtio, BusNVMe} {
			args := goldenLine(MachineQ35, firmware, bus, ModelE1000, AccelTCG).args()
			text := strings.Join(args, " ")
			if strings.Contains(text, "VGA") || strings.Contains(text, "virtio-tablet") {
				t.Errorf("a display that was not asked for: %s", text)
			}
			for _, never := range []string{"-drive", "-kernel", "-fw_cfg", "-qmp", "-monitor", "-vnc", "-spice", "-gdb", "-readconfig", "-incoming", "-bios", `"driver":"raw"`, "qcow2", "user,", "script", "usb=on"} {
				if strings.Contains(text, never) {
					t.Errorf("%q in %s", never, text)
				}
			}
			if strings.Count(text, `"bootindex"`) != 1 {
				t.Errorf("not exactly one boot device: %s", text)
			}
			if strings.Count(text, `"romfile":""`) != 2 {
				t.Errorf("an option ROM is left: %s", text)
			}
		}
	}
}

// TestOptionsAreJSON feeds values that would end an option if they were not quoted.
func TestOptionsAreJSON(t *testing.T) {
	c := goldenLine(MachinePC, FirmwareBIOS, BusVirtio, ModelVirtio, AccelTCG)
	c.disks[0].socket = "/a,b=\"c\"\\}\n,d"
	c.console = "/with,comma"
	objects := 0
	for _, a := range c.args() {
		if !strings.HasPrefix(a, "{") {
			continue
		}
		objects++
		var v map[string]any
		if err := json.Unmarshal([]byte(a), &v); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		if server, ok := v["server"].(map[string]any); ok && v["node-name"] == "disk-root" && server["path"] != c.disks[0].socket {
			t.Errorf("path became %q", server["path"])
		}
	}
	if objects < 10 {
		t.Errorf("%d objects", objects)
	}
	if text := strings.Join(c.args(), "\n"); !strings.Contains(text, "path=/with,,comma,reconnect=1") {
		t.Error("the comma of the console's path is not quoted")
	}
}

func validSpec() LaunchSpec {
	return LaunchSpec{
		ID: testID, MemoryBytes: 64 << 20, VCPUs: 1, Machine: MachinePC, Firmware: FirmwareBIOS,
		Disks:       []Disk{{Name: "root", Bus: BusVirtio, Boot: true}},
		NICs:        []NIC{{MAC: [6]byte{0x52}, Model: ModelVirtio}},
		DiskSockets: map[string]string{"root": "/run/root.sock"},
	}
}

func TestValidate(t *testing.T) {
	good := validSpec()
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	disk := func(change func(*Disk)) func(*LaunchSpec) {
		return func(s *LaunchSpec) { change(&s.Disks[0]) }
	}
	for n, change := range []func(*LaunchSpec){
		func(s *LaunchSpec) { s.ID = "../../etc" },
		func(s *LaunchSpec) { s.ID = strings.ToUpper(s.ID) },
		func(s *LaunchSpec) { s.Slot = -1 },
		func(s *LaunchSpec) { s.MemoryBytes = 0 },
		func(s *LaunchSpec) { s.VCPUs = 0 },
		func(s *LaunchSpec) { s.VCPUs = 256 },
		func(s *LaunchSpec) { s.Machine = "microvm" },
		func(s *LaunchSpec) { s.Firmware = "coreboot" },
		func(s *LaunchSpec) { s.ChannelMAC = [6]byte{1} },
		disk(func(d *Disk) { d.Name = "Root" }),
		disk(func(d *Disk) { d.Name = "other" }),
		disk(func(d *Disk) { d.Bus = "scsi" }),
		disk(func(d *Disk) { d.Bus = BusSATA }),
		disk(func(d *Disk) { d.Bus, d.ReadOnly = BusIDE, true }),
		func(s *LaunchSpec) { s.Disks[0].Bus, s.Firmware = BusIDE, FirmwareUEFI },
		func(s *LaunchSpec) { s.Disks[0].Bus, s.Machine = BusIDE, MachineQ35 },
		func(s *LaunchSpec) { s.Disks = append(s.Disks, s.Disks[0]) },
		func(s *LaunchSpec) {
			s.Disks = append(s.Disks, Disk{Name: "data", Bus: BusVirtio, Boot: true})
			s.DiskSockets["data"] = "/run/data.sock"
		},
		func(s *LaunchSpec) {
			for i := range 5 {
				name := fmt.Sprintf("ide%d", i)
				s.Disks = append(s.Disks, Disk{Name: name, Bus: BusIDE})
				s.DiskSockets[name] = "/run/" + name
			}
		},
		func(s *LaunchSpec) { s.DiskSockets["root"] = "relative" },
		func(s *LaunchSpec) { s.DiskSockets["root"] = "/run/../etc/x" },
		func(s *LaunchSpec) { s.DiskSockets["root"] = "/" + strings.Repeat("x", maxSocketPath) },
		func(s *LaunchSpec) { s.ConsoleSocket = "/a\nb" },
		func(s *LaunchSpec) { s.NICs[0].Model = "rtl8139" },
		func(s *LaunchSpec) { s.NICs[0].MAC[0] = 1 },
		func(s *LaunchSpec) { s.NICs[0].MAC = [6]byte{} },
		func(s *LaunchSpec) { s.TapFiles = make([]*os.File, 2) },
	} {
		s := validSpec()
		change(&s)
		if err := s.validate(); err == nil {
			t.Errorf("case %d was accepted: %+v", n, s)
		}
	}
}
