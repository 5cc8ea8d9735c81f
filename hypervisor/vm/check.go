package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
)

// checkTimeout bounds everything that Check asks QEMU.
const checkTimeout = 10 * time.Second

// oldestQEMU is the first version whose options and answers this package was tested with.
var oldestQEMU = [2]int{7, 2}

// neededDevices are the device models that a command line can name.
var neededDevices = []string{
	"virtio-blk-pci", "vhost-user-blk-pci", "ide-hd", "ich9-ahci", "nvme", "virtio-net-pci", "e1000", "isa-serial", "virtio-rng-pci",
	"VGA", "virtio-tablet-pci",
}

const (
	fixQEMU     = "apt install qemu-system-x86"
	fixFirmware = "apt install ovmf"
	fixBIOS     = "apt install seabios"
)

// Check tells whether this host can run VMs, and for what is missing, how to get it. It
// starts QEMU for a moment, without a machine.
func Check(cfg Config) []Finding {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	findings := checkQEMU(ctx, cfg)
	findings = append(findings, checkBIOS(cfg), checkOVMF(cfg), checkKernel(), checkConfinement(), checkAccel(cfg))
	if cfg.RunDir != "" {
		findings = append(findings, checkRunDir(cfg))
	}
	return findings
}

// checkQEMU asks QEMU itself, on a monitor, with the sandbox on.
func checkQEMU(ctx context.Context, cfg Config) []Finding {
	f := Finding{Name: "qemu"}
	binary, err := filepath.EvalSymlinks(cfg.binary())
	if err != nil {
		f.Detail, f.Fix = fmt.Sprintf("no program %s (%v)", cfg.binary(), unwrapPath(err)), fixQEMU
		return []Finding{f}
	}
	client, stop, err := probe(ctx, binary)
	if err != nil {
		f.Detail, f.Fix = fmt.Sprintf("%s does not start with its sandbox on: %v", binary, err), fixQEMU
		return []Finding{f}
	}
	defer stop()
	f.OK, f.Detail = true, binary
	sandbox := Finding{Name: "qemu sandbox", OK: true, Detail: "starts with every class of system calls denied that can be"}
	return []Finding{f, checkVersion(ctx, client), sandbox, checkNBD(ctx, client), checkVNC(ctx, client), checkUserNetwork(ctx, client), checkDevices(ctx, client)}
}

// probe starts QEMU without a machine and connects to its monitor.
func probe(ctx context.Context, binary string) (client *qmp.Client, stop func(), err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "monitor")
	defer theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "monitor")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, nil, err
	}
	said := &tail{max: stderrTail}
	cmd := exec.CommandContext(ctx, binary, "-nodefaults", "-no-user-config", "-machine", "none", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", "socket,id=monitor,fd=3", "-mon", "chardev=monitor,mode=control")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, nil, err
	}
	theirs.Close()
	client, err = qmp.NewClient(ctx, qmp.NewConn(conn.(*net.UnixConn)))
	if err != nil {
		conn.Close()
		cmd.Process.Kill()
		cmd.Wait()
		if text := said.String(); text != "" {
			err = errors.New(text)
		}
		return nil, nil, err
	}
	return client, func() {
		client.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}, nil
}

func checkVersion(ctx context.Context, client *qmp.Client) Finding {
	f := Finding{Name: "qemu version"}
	var v struct {
		QEMU struct{ Major, Minor, Micro int }
	}
	if err := client.Execute(ctx, "query-version", nil, &v); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro)
	f.OK = v.QEMU.Major > oldestQEMU[0] || v.QEMU.Major == oldestQEMU[0] && v.QEMU.Minor >= oldestQEMU[1]
	if !f.OK {
		f.Detail += fmt.Sprintf(" is older than %d.%d", oldestQEMU[0], oldestQEMU[1])
		f.Fix = fixQEMU
	}
	return f
}

// checkNBD tries to open a disk that nobody serves: QEMU gets as far as connecting only
// if it has the driver.
func checkNBD(ctx context.Context, client *qmp.Client) Finding {
	f := Finding{Name: "qemu nbd driver"}
	err := client.Execute(ctx, "blockdev-add", map[string]any{
		"driver":    "nbd",
		"node-name": "probe",
		"server":    map[string]any{"type": "unix", "path": "/nonexistent/uvbond-probe"},
	}, nil)
	var refused *qmp.Error
	switch {
	case errors.As(err, &refused) && strings.Contains(refused.Desc, "/nonexistent/uvbond-probe"):
		f.OK, f.Detail = true, "present"
	case err != nil:
		f.Detail, f.Fix = err.Error(), "apt install qemu-system-x86 qemu-block-extra"
	default:
		f.Detail = "a disk that does not exist was opened"
	}
	return f
}

// checkVNC: a QEMU without its VNC server does not know the command.
func checkVNC(ctx context.Context, client *qmp.Client) Finding {
	f := Finding{Name: "qemu vnc server"}
	if err := client.Execute(ctx, "query-vnc-servers", nil, nil); err != nil {
		f.Detail, f.Fix = "VMs with a screen will not start: "+err.Error(), fixQEMU
		return f
	}
	f.OK, f.Detail = true, "present"
	return f
}

// checkUserNetwork makes a network as the card for channels has it. It needs QEMU to be
// built with libslirp.
func checkUserNetwork(ctx context.Context, client *qmp.Client) Finding {
	f := Finding{Name: "qemu user network"}
	err := client.Execute(ctx, "netdev_add", map[string]any{"type": "user", "id": "probe", "restrict": true, "ipv6": false}, nil)
	if err != nil {
		f.Detail = "VMs with a network card for ssh and forward will not start; is QEMU built without slirp? " + err.Error()
		f.Fix = fixQEMU
		return f
	}
	f.OK, f.Detail = true, "present"
	return f
}

func checkDevices(ctx context.Context, client *qmp.Client) Finding {
	f := Finding{Name: "qemu devices"}
	var types []struct {
		Name json.RawMessage `json:"name"`
	}
	if err := client.Execute(ctx, "qom-list-types", map[string]any{"implements": "device", "abstract": false}, &types); err != nil {
		f.Detail = err.Error()
		return f
	}
	have := make(map[string]bool, len(types))
	for _, t := range types {
		have[string(bytes.Trim(t.Name, `"`))] = true
	}
	var missing []string
	for _, name := range neededDevices {
		if !have[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		f.Detail, f.Fix = "missing: "+strings.Join(missing, ", "), fixQEMU
		return f
	}
	f.OK, f.Detail = true, "all that a registration can name"
	return f
}

// checkBIOS looks for SeaBIOS and the display's part of it.
func checkBIOS(cfg Config) Finding {
	f := Finding{Name: "bios firmware"}
	dirs := []string{"/usr/share/seabios", "/usr/share/qemu"}
	if binary, err := filepath.EvalSymlinks(cfg.binary()); err == nil {
		share := filepath.Join(filepath.Dir(filepath.Dir(binary)), "share")
		dirs = append(dirs, filepath.Join(share, "qemu"), filepath.Join(share, "seabios"))
	}
	for _, name := range []string{"vgabios-stdvga.bin", "bios-256k.bin"} {
		f.OK = false
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err == nil {
				f.OK, f.Detail = true, path
				break
			}
		}
		if !f.OK {
			f.Detail, f.Fix = "no "+name+" in "+strings.Join(dirs, ", "), fixBIOS
			return f
		}
	}
	return f
}

func checkOVMF(cfg Config) Finding {
	f := Finding{Name: "uefi firmware", OK: true, Detail: cfg.firmwareDir()}
	for _, name := range []string{codeFile, varsFile} {
		file, err := os.Open(filepath.Join(cfg.firmwareDir(), name))
		if err != nil {
			return Finding{Name: f.Name, Detail: err.Error(), Fix: fixFirmware}
		}
		file.Close()
	}
	return f
}

// checkKernel tries the system calls without which a process cannot be held or confined.
func checkKernel() Finding {
	f := Finding{Name: "kernel"}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		f.Detail = fmt.Sprintf("pidfd_open: %v: Linux 5.9 or newer is needed", err)
		return f
	}
	defer unix.Close(fd)
	// A range in which nothing is open.
	if err := unix.CloseRange(1<<30, 1<<30, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		f.Detail = fmt.Sprintf("close_range: %v: Linux 5.11 or newer is needed", err)
		return f
	}
	f.OK, f.Detail = true, "has pidfds and close_range"
	return f
}

func checkConfinement() Finding {
	f := Finding{Name: "confinement"}
	if !isRoot() {
		f.Detail = "not root: QEMU would run as this user, in no namespaces of its own, with its own sandbox only"
		f.Fix = "run the daemon as root"
		return f
	}
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if err := cmd.Run(); err != nil {
		f.Detail = fmt.Sprintf("cannot make namespaces: %v", err)
		f.Fix = "give the daemon CAP_SYS_ADMIN: it must not run in an unprivileged container"
		return f
	}
	f.OK, f.Detail = true, "own uid, root, network, IPC and host name for each VM"
	return f
}

// checkAccel is content with emulation, which is slow but right, unless the
// configuration demands KVM.
func checkAccel(cfg Config) Finding {
	have, why := DetectAccel()
	f := Finding{Name: "acceleration", OK: true, Detail: have + ": " + why}
	if _, _, err := cfg.accel(); err != nil {
		return Finding{Name: f.Name, Detail: err.Error(), Fix: "correct the accelerator in the configuration"}
	}
	if cfg.Accel == AccelKVM && have != AccelKVM {
		f.OK, f.Fix = false, "enable virtualisation in the firmware, or choose tcg in the configuration"
		f.Detail = "the configuration demands kvm, but " + why
	}
	return f
}

// checkRunDir looks whether the sockets' paths fit; their directory need not exist yet.
func checkRunDir(cfg Config) Finding {
	f := Finding{Name: "run directory"}
	if err := checkPath(monitorPath(cfg, strings.Repeat("0", 32))); err != nil {
		f.Detail, f.Fix = err.Error(), "choose a shorter absolute path in the configuration"
		return f
	}
	if _, err := os.Lstat(cfg.RunDir); err == nil {
		if err := checkOwn(cfg.RunDir); err != nil {
			f.Detail, f.Fix = err.Error(), "chmod go-w "+cfg.RunDir
			return f
		}
	}
	f.OK, f.Detail = true, cfg.RunDir
	return f
}
