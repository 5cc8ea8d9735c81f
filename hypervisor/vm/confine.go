package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// confineFD is the descriptor from which ConfineMain reads its orders; those that QEMU
// inherits follow it.
const confineFD = 3

// maxConfinement bounds the orders, in bytes. They come from the daemon; the bound only
// keeps a mistake small.
const maxConfinement = 1 << 20

// Limits of a confined QEMU.
const (
	maxOpenFiles = 1024
	maxLocked    = 1 << 20 // bytes
	maxThreads   = 2048    // of the uid, which is the VM's own
)

// confinement is what the daemon orders the helper process to become.
type confinement struct {
	// Isolate: the process was started in new namespaces, as root, and is to get a
	// root directory and a uid of its own. Otherwise it keeps what it has.
	Isolate  bool   `json:"isolate"`
	Root     string `json:"root"`  // an empty directory to mount the new root at
	Binds    []bind `json:"binds"` // in the order in which they are mounted
	Links    []bind `json:"links"` // symbolic links: Target is made to point to Source
	KVM      bool   `json:"kvm"`
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	KeepFDs  int    `json:"keep_fds"` // number of descriptors after confineFD that QEMU gets
	Memory   uint64 `json:"memory"`   // bytes that QEMU may have of its own: see ownMemory
	Hostname string `json:"hostname"`

	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// bind shows a file or directory of the host, read-only, at a path of the new root.
type bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// ConfineMain is the hidden subcommand `confine`: it turns the process that Launch
// started into QEMU. It waits for its orders on descriptor 3, which arrive when the
// daemon has told others about the process id, gives up everything that QEMU does not
// need, and executes QEMU. It returns only on failure, with the exit status; what
// failed is on standard error, which Launch reports.
func ConfineMain() int {
	// Some of what follows applies to one thread; the one that executes QEMU decides.
	runtime.LockOSThread()
	if err := confine(); err != nil {
		fmt.Fprintln(os.Stderr, "uvbond-hypervisor confine:", err)
		return 126
	}
	return 0
}

func confine() error {
	c, err := readConfinement(confineFD)
	if err != nil {
		return err
	}
	if c == nil {
		return errors.New("the daemon gave up the launch")
	}
	unix.Umask(0o077)
	if err := closeAbove(confineFD + c.KeepFDs); err != nil {
		return err
	}
	if c.Isolate {
		if err := isolate(c); err != nil {
			return err
		}
	}
	if err := limit(c); err != nil {
		return err
	}
	if err := dropPrivileges(c); err != nil {
		return err
	}
	if err := syscall.Exec(c.Args[0], c.Args, c.Env); err != nil {
		return fmt.Errorf("execute %s: %w", c.Args[0], err)
	}
	return nil
}

// readConfinement reads the orders and closes the descriptor. It returns nil when the
// other end closed without any.
func readConfinement(fd int) (*confinement, error) {
	f := os.NewFile(uintptr(fd), "orders")
	if f == nil {
		return nil, errors.New("descriptor 3 is not open: this subcommand is started by the daemon only")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfinement+1))
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxConfinement {
		return nil, errors.New("the orders are too long")
	}
	c := new(confinement)
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	if len(c.Args) == 0 || c.KeepFDs < 0 || c.Memory == 0 {
		return nil, errors.New("the orders are incomplete")
	}
	if c.Isolate && (c.UID == 0 || c.GID == 0 || c.Root == "") {
		return nil, errors.New("the orders would leave QEMU with uid 0 or without a root")
	}
	return c, nil
}

// closeAbove sees to it that no descriptor above the last one meant for QEMU survives
// the exec. The runtime's own are among them, so they are marked, not closed.
func closeAbove(last int) error {
	if err := unix.CloseRange(uint(last+1), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close other descriptors: %w", err)
	}
	return nil
}

// isolate gives the process, which is already in new namespaces, its own root.
func isolate(c *confinement) error {
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	// Nothing mounted here may appear outside, nor the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountTmpfs(c.Root, unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=256k,nr_inodes=1024"); err != nil {
		return err
	}
	for _, b := range c.Binds {
		if err := bindReadOnly(b.Source, filepath.Join(c.Root, b.Target)); err != nil {
			return err
		}
	}
	for _, l := range c.Links {
		if err := unix.Symlink(l.Source, filepath.Join(c.Root, l.Target)); err != nil {
			return fmt.Errorf("link %s: %w", l.Target, err)
		}
	}
	if err := makeDevices(filepath.Join(c.Root, "dev"), c); err != nil {
		return err
	}
	return enterRoot(c.Root)
}

func mountTmpfs(path string, flags uintptr, data string) error {
	if err := unix.Mount("uvbond", path, "tmpfs", flags|unix.MS_NOSUID, data); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", path, err)
	}
	return nil
}

// bindReadOnly mounts one file or directory, without what is mounted below it.
func bindReadOnly(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := makeMountPoint(target, info.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	return remountReadOnly(target, unix.MS_NOSUID|unix.MS_NODEV)
}

func makeMountPoint(target string, dir bool) error {
	parent := target
	if !dir {
		parent = filepath.Dir(target)
	}
	// The umask is 077; QEMU's uid must be able to walk these.
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	if dir {
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	return f.Close()
}

func remountReadOnly(path string, flags uintptr) error {
	flags |= unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY
	if err := unix.Mount("", path, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

// makeDevices fills /dev. The nodes are made, not bound, so that /dev/kvm can belong to
// the VM's uid whatever its owner and mode are on the host.
func makeDevices(dir string, c *confinement) error {
	if err := makeMountPoint(dir, true); err != nil {
		return err
	}
	if err := mountTmpfs(dir, unix.MS_NOEXEC, "mode=0755,size=4k,nr_inodes=16"); err != nil {
		return err
	}
	nodes := []string{"null", "zero", "urandom"}
	if c.KVM {
		nodes = append(nodes, "kvm")
	}
	for _, name := range nodes {
		if err := copyDevice(name, dir, c); err != nil {
			return err
		}
	}
	return remountReadOnly(dir, unix.MS_NOSUID|unix.MS_NOEXEC)
}

func copyDevice(name, dir string, c *confinement) error {
	var st unix.Stat_t
	if err := unix.Stat("/dev/"+name, &st); err != nil {
		return fmt.Errorf("look at /dev/%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fmt.Errorf("/dev/%s is not a character device", name)
	}
	path := filepath.Join(dir, name)
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if err := unix.Chown(path, c.UID, c.GID); err != nil {
		return fmt.Errorf("give %s to the VM: %w", path, err)
	}
	return nil
}

// enterRoot makes the directory the root and lets go of the old one.
func enterRoot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// Both arguments the same: the old root ends up mounted over the new one and is
	// detached at once, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return remountReadOnly("/", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
}

// limit sets resource limits. syscall.Setrlimit is used because the runtime restores
// the number of open files on exec unless it was changed that way.
func limit(c *confinement) error {
	limits := []struct {
		name     string
		resource int
		value    uint64
	}{
		{"core size", unix.RLIMIT_CORE, 0}, // a core file would hold guest memory
		{"open files", unix.RLIMIT_NOFILE, maxOpenFiles},
		{"locked memory", unix.RLIMIT_MEMLOCK, maxLocked},
		{"processes", unix.RLIMIT_NPROC, maxThreads},
		{"memory", unix.RLIMIT_DATA, c.Memory},
	}
	for _, l := range limits {
		if l.resource == unix.RLIMIT_NPROC && !c.Isolate {
			continue // the uid is shared with everything else of its user
		}
		value := l.value
		var now syscall.Rlimit
		if err := syscall.Getrlimit(l.resource, &now); err == nil && now.Max < value {
			value = now.Max
		}
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	return nil
}

// dropPrivileges gives up capabilities, uid and the right to gain any of them.
func dropPrivileges(c *confinement) error {
	if c.Isolate {
		if err := dropBounding(); err != nil {
			return err
		}
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
		if err := syscall.Setresgid(c.GID, c.GID, c.GID); err != nil {
			return fmt.Errorf("set gid %d: %w", c.GID, err)
		}
		if err := syscall.Setresuid(c.UID, c.UID, c.UID); err != nil {
			return fmt.Errorf("set uid %d: %w", c.UID, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// dropBounding empties the bounding set. The kernel may know more capabilities than
// this source; it answers EINVAL after its last.
func dropBounding() error {
	for capability := uintptr(0); capability < 64; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == unix.EINVAL {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return nil
}
