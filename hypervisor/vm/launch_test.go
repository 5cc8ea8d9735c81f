package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

var bootDisk = Disk{Name: "root", Bus: BusVirtio, Boot: true}

func TestLifeOfAVM(t *testing.T) {
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
	console := listenConsole(t, cfg, &spec)
	cfg.Self = "" // the running program
	var told int
	spec.OnStarted = func(pid int) { told = pid }
	i := start(t, cfg, spec)
	rec := i.Record()
	if told == 0 || told != i.PID() || rec.PID != told || rec.ID != testID || rec.Slot != 3 || rec.Accel != AccelTCG {
		t.Fatalf("told of process %d, record %+v", told, rec)
	}
	if rec.Confined != isRoot() {
		t.Errorf("confined: %v, root: %v", rec.Confined, isRoot())
	}
	wantStatus(t, i, "prelaunch")
	execute(t, i, "cont")
	wantStatus(t, i, "running")
	// What the boot sector prints proves that the disk was read over NBD.
	if err := console.read("UV"); err != nil {
		t.Fatal(err)
	}
	execute(t, i, "stop")
	wantStatus(t, i, "paused")
	execute(t, i, "cont")
	execute(t, i, "system_powerdown")
	execute(t, i, "system_reset")
	wantEvent(t, i, "RESET")
	var refused *qmp.Error
	if _, err := i.Execute(t.Context(), "no-such-command", nil); !errors.As(err, &refused) {
		t.Errorf("unknown command: %v", err)
	}
	execute(t, i, "quit")
	if e := waitDone(t, i); e.Reason != ExitQuit || e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if _, err := i.Execute(t.Context(), "query-status", nil); err == nil {
		t.Error("a command was answered after the end")
	}
	nothingLeft(t, cfg, rec)
}

func wantEvent(t *testing.T, i *Instance, name string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-i.Events():
			if !ok {
				t.Fatalf("no event %s before the end", name)
			}
			if e.Event == name {
				return
			}
		case <-deadline:
			t.Fatalf("no event %s", name)
		}
	}
}

// TestBuses boots the same sector through every kind of disk that a BIOS can read, and
// starts the UEFI firmware with those that it knows.
func TestBuses(t *testing.T) {
	for _, c := range []struct{ machine, firmware, bus string }{
		{MachinePC, FirmwareBIOS, BusIDE},
		{MachineQ35, FirmwareBIOS, BusSATA},
		{MachineQ35, FirmwareBIOS, BusNVMe},
		{MachineQ35, FirmwareBIOS, BusVirtio},
		{MachinePC, FirmwareUEFI, BusVirtio},
		{MachineQ35, FirmwareUEFI, BusVirtio},
		{MachineQ35, FirmwareUEFI, BusSATA},
		{MachineQ35, FirmwareUEFI, BusNVMe},
	} {
		t.Run(c.machine+"-"+c.firmware+"-"+c.bus, func(t *testing.T) {
			cfg := testConfig(t)
			disks := []Disk{{Name: "root", Bus: c.bus, Boot: true, Discard: true}, {Name: "data", Bus: c.bus}}
			if c.bus == BusVirtio || c.bus == BusNVMe {
				disks = append(disks, Disk{Name: "tools", Bus: c.bus, ReadOnly: true})
			}
			spec := testSpec(t, cfg, c.machine, c.firmware, disks...)
			spec.NICs = []NIC{{MAC: [6]byte{0x52, 0x54, 0, 0, 0, 1}, Model: ModelVirtio}, {MAC: [6]byte{0x52, 0x54, 0, 0, 0, 2}, Model: ModelE1000}}
			console := listenConsole(t, cfg, &spec)
			i := start(t, cfg, spec)
			wantStatus(t, i, "prelaunch")
			execute(t, i, "cont")
			wantStatus(t, i, "running")
			want := "UV"
			if c.firmware == FirmwareUEFI {
				// The sector is no UEFI program: the firmware looks at the disk and then
				// starts its own shell.
				want = map[string]string{
					BusVirtio: `failed to load Boot0001 "UEFI Misc Device"`,
					BusSATA:   `failed to load Boot0001 "UEFI QEMU HARDDISK root `,
					BusNVMe:   `failed to load Boot0001 "UEFI QEMU NVMe Ctrl root `,
				}[c.bus]
			}
			if err := console.read(want); err != nil {
				t.Error(err)
			}
			if c.firmware == FirmwareUEFI {
				if err := console.read(`starting Boot0002 "EFI Internal Shell"`); err != nil {
					t.Error(err)
				}
			}
			if strings.Contains(console.text, "PXE") || strings.Contains(console.text, "HTTP") {
				t.Errorf("network boot was tried: %q", console.text)
			}
			execute(t, i, "quit")
			if e := waitDone(t, i); e.Reason != ExitQuit {
				t.Errorf("exit %+v", e)
			}
			nothingLeft(t, cfg, i.Record())
		})
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(i *Instance) error
		signal syscall.Signal
		reason string
	}{
		{"segfault", func(i *Instance) error { return syscall.Kill(i.PID(), syscall.SIGSEGV) }, syscall.SIGSEGV, ExitCrashed},
		{"kill -9", func(i *Instance) error { return syscall.Kill(i.PID(), syscall.SIGKILL) }, syscall.SIGKILL, ExitCrashed},
		{"Kill", (*Instance).Kill, syscall.SIGKILL, ExitKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t)
			i := start(t, cfg, testSpec(t, cfg, MachinePC, FirmwareUEFI, bootDisk))
			execute(t, i, "cont")
			if err := c.end(i); err != nil {
				t.Fatal(err)
			}
			if e := waitDone(t, i); e.Reason != c.reason || e.Signal != int(c.signal) {
				t.Errorf("exit %+v", e)
			}
			for range i.Events() { // closed
			}
			if err := i.Kill(); err != nil {
				t.Errorf("Kill after the end: %v", err)
			}
			nothingLeft(t, cfg, i.Record())
		})
	}
}

func TestLaunchFails(t *testing.T) {
	t.Run("nobody serves the disk", func(t *testing.T) {
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
		spec.Disks = []Disk{bootDisk}
		spec.DiskSockets["root"] = filepath.Join(SocketDir(cfg, testID), "none.sock")
		wantFailure(t, cfg, spec, "none.sock")
	})
	t.Run("firmware missing", func(t *testing.T) {
		cfg := testConfig(t)
		cfg.FirmwareDir = "/nonexistent"
		wantFailure(t, cfg, testSpec(t, cfg, MachinePC, FirmwareUEFI), "apt install ovmf")
	})
	t.Run("no uid of its own", func(t *testing.T) {
		if !isRoot() {
			t.Skip("only root changes uids")
		}
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
		cfg.UIDBase = 0
		wantFailure(t, cfg, spec, "uid base")
	})
	t.Run("run directory of others", func(t *testing.T) {
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
		if err := os.Chmod(cfg.RunDir, 0o777); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, cfg, spec, "nobody else")
	})
	t.Run("program missing", func(t *testing.T) {
		cfg := testConfig(t)
		cfg.BinaryPath = "/nonexistent"
		wantFailure(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS), "apt install qemu")
	})
	t.Run("program ends", func(t *testing.T) {
		cfg := testConfig(t)
		cfg.BinaryPath = "/bin/false"
		wantFailure(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS), "failed, exit status 1")
	})
	t.Run("QEMU refuses", func(t *testing.T) {
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
		spec.MemoryBytes = 1 << 60
		wantFailure(t, cfg, spec, "QEMU said")
	})
	t.Run("monitor never answers", func(t *testing.T) {
		cfg := testConfig(t)
		cfg.StartTimeout = 300 * time.Millisecond
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
		wantFailureWhen(t, cfg, spec, func(pid int) { syscall.Kill(pid, syscall.SIGSTOP) }, "did not answer in time")
	})
	t.Run("cancelled", func(t *testing.T) {
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
		ctx, cancel := context.WithCancel(t.Context())
		var pid int
		spec.OnStarted = func(p int) { pid = p; cancel() }
		if _, err := Launch(ctx, cfg, spec); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		nothingLeft(t, cfg, Record{ID: testID, PID: pid, StartTime: 0})
		if _, running, err := processTime(pid); err == nil && running {
			t.Error("the process still runs")
		}
	})
}

func wantFailure(t *testing.T, cfg Config, spec LaunchSpec, want string) {
	t.Helper()
	wantFailureWhen(t, cfg, spec, func(int) {}, want)
}

func wantFailureWhen(t *testing.T, cfg Config, spec LaunchSpec, started func(pid int), want string) {
	t.Helper()
	var pid int
	spec.OnStarted = func(p int) { pid = p; started(p) }
	_, err := Launch(t.Context(), cfg, spec)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want %q in it", err, want)
	}
	if pid != 0 {
		if _, _, err := processTime(pid); err == nil {
			t.Errorf("process %d still exists", pid)
		}
	}
	nothingLeft(t, cfg, Record{ID: testID})
}

func TestSecondLaunchIsRefused(t *testing.T) {
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
	i := start(t, cfg, spec)
	if _, err := Launch(t.Context(), cfg, spec); err == nil || !strings.Contains(err.Error(), "already") {
		t.Fatalf("error %v", err)
	}
	wantStatus(t, i, "prelaunch")
}

// TestAdoption has another process launch the VM and die without a word.
func TestAdoption(t *testing.T) {
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
	rec := launchElsewhere(t, cfg, spec)

	wrong := rec
	wrong.StartTime++
	if _, err := Adopt(t.Context(), cfg, wrong); !errors.Is(err, ErrGone) {
		t.Fatalf("another start time: %v", err)
	}
	for round := range 2 {
		i, err := Adopt(t.Context(), cfg, rec)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if round == 0 {
			wantStatus(t, i, "prelaunch")
			execute(t, i, "cont")
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Execute(t.Context(), "query-status", nil); !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			continue
		}
		wantStatus(t, i, "running")
		execute(t, i, "quit")
		if e := waitDone(t, i); e.Reason != ExitQuit {
			t.Errorf("exit %+v", e)
		}
	}
	nothingLeft(t, cfg, rec)
	if _, err := Adopt(t.Context(), cfg, rec); !errors.Is(err, ErrGone) {
		t.Errorf("adopting the dead: %v", err)
	}
}

func TestAdoptedCrash(t *testing.T) {
	cfg := testConfig(t)
	rec := launchElsewhere(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk))
	i, err := Adopt(t.Context(), cfg, rec)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(rec.PID, syscall.SIGSEGV)
	if e := waitDone(t, i); e.Reason != ExitUnknown || e.Code != -1 {
		t.Errorf("exit %+v", e)
	}
	nothingLeft(t, cfg, rec)
}

func TestTerminate(t *testing.T) {
	cfg := testConfig(t)
	rec := launchElsewhere(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk))
	if err := Terminate(t.Context(), cfg, rec); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, cfg, rec)
	if err := Terminate(t.Context(), cfg, rec); err != nil {
		t.Errorf("again: %v", err)
	}
}

func launchElsewhere(t *testing.T, cfg Config, spec LaunchSpec) Record {
	t.Helper()
	cfg.Logger = nil
	in, err := json.Marshal(map[string]any{"Config": cfg, "Spec": map[string]any{
		"ID": spec.ID, "Slot": spec.Slot, "MemoryBytes": spec.MemoryBytes, "VCPUs": spec.VCPUs,
		"Firmware": spec.Firmware, "Machine": spec.Machine, "Disks": spec.Disks, "DiskSockets": spec.DiskSockets,
	}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cfg.Self, "launch-and-die")
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var rec Record
	if err := json.Unmarshal(out, &rec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p, err := openProcess(rec.PID, rec.StartTime); err == nil {
			p.kill()
			p.wait()
			p.close()
		}
	})
	return rec
}

// TestMonitorComesBack breaks the connection under a running VM.
func TestMonitorComesBack(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS))
	i.mu.Lock()
	client := i.client
	i.mu.Unlock()
	client.Close()
	eventually(t, "the monitor", func() bool { _, err := i.Status(t.Context()); return err == nil })
	execute(t, i, "quit")
	if e := waitDone(t, i); e.Reason != ExitQuit {
		t.Errorf("exit %+v", e)
	}
}
