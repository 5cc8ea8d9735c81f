package vm

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// statusField returns one line's value of /proc/PID/status.
func statusField(t *testing.T, pid int, name string) string {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "status")) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, name)
	return ""
}

// TestConfinement looks at a running QEMU from outside, as the kernel sees it.
func TestConfinement(t *testing.T) {
	if !isRoot() {
		t.Skip("own uids and namespaces need root")
	}
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachineQ35, FirmwareUEFI, bootDisk)
	i := start(t, cfg, spec)
	execute(t, i, "cont")
	wantStatus(t, i, "running")

	uid := strconv.Itoa(testUIDBase + 6)
	four := strings.Join([]string{uid, uid, uid, uid}, " ")
	zero := "0000000000000000"
	for name, want := range map[string]string{
		"Uid": four, "Gid": four, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": zero, "CapPrm": zero, "CapEff": zero, "CapBnd": zero, "CapAmb": zero,
	} {
		if have := statusField(t, i.PID(), name); have != want {
			t.Errorf("%s is %q, want %q", name, have, want)
		}
	}
	t.Run("every thread", func(t *testing.T) { checkThreads(t, i.PID(), four) })
	t.Run("namespaces", func(t *testing.T) { checkNamespaces(t, i.PID()) })
	t.Run("network", func(t *testing.T) { checkNetwork(t, i.PID()) })
	t.Run("root", func(t *testing.T) { checkRoot(t, i.PID()) })
	t.Run("mounts", func(t *testing.T) { checkMounts(t, i.PID()) })
	t.Run("descriptors", func(t *testing.T) { checkDescriptors(t, i.PID()) })
	t.Run("limits", func(t *testing.T) { checkLimits(t, i.PID()) })
	t.Run("environment", func(t *testing.T) {
		if have, want := procFile(t, i.PID(), "environ"), "PATH=/usr/bin:/bin\x00HOME=/\x00LC_ALL=C\x00"; have != want {
			t.Errorf("environment %q, want %q", have, want)
		}
	})
	t.Run("session", func(t *testing.T) {
		if sid, err := unix.Getsid(i.PID()); err != nil || sid != i.PID() {
			t.Errorf("session %d, %v: want an own one", sid, err)
		}
	})
	t.Run("modes", func(t *testing.T) { checkModes(t, cfg) })
}

func checkThreads(t *testing.T, pid int, uids string) {
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"Uid": uids, "NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000"} {
			if have := statusField(t, tid, name); have != want {
				t.Errorf("thread %d: %s is %q, want %q", tid, name, have, want)
			}
		}
	}
}

func checkNamespaces(t *testing.T, pid int) {
	for _, name := range []string{"mnt", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", name))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil || ours == theirs {
			t.Errorf("namespace %s is shared: %s (%v)", name, theirs, err)
		}
	}
}

// checkNetwork wants nothing but a loopback device that is down, and no route.
func checkNetwork(t *testing.T, pid int) {
	lines := strings.Split(strings.TrimSpace(procFile(t, pid, "net/dev")), "\n")[2:]
	if len(lines) != 1 || !strings.HasPrefix(strings.TrimSpace(lines[0]), "lo:") {
		t.Errorf("devices: %q", lines)
	}
	if routes := strings.Split(strings.TrimSpace(procFile(t, pid, "net/route")), "\n"); len(routes) != 1 {
		t.Errorf("routes: %q", routes)
	}
	// A loopback device that is up has an address, which this table lists.
	if table := procFile(t, pid, "net/fib_trie"); strings.Contains(table, "127.0.0.1") {
		t.Error("the loopback device is up")
	}
}

func checkRoot(t *testing.T, pid int) {
	root := filepath.Join("/proc", strconv.Itoa(pid), "root")
	list := func(dir string) []string {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	for dir, want := range map[string][]string{
		"/":          {"dev", "etc", "lib", "lib64", "sockets", "usr"},
		"/etc":       {"ld.so.cache"},
		"/dev":       {"null", "urandom", "zero"},
		"/usr":       {"bin", "lib", "lib64", "share"},
		"/usr/bin":   {filepath.Base(DefaultBinary)},
		"/usr/share": {"qemu", "seabios"},
		"/sockets":   {"0"},
		"/sockets/0": {"root.sock"},
	} {
		if have := list(dir); !slices.Equal(have, want) {
			t.Errorf("%s holds %q, want %q", dir, have, want)
		}
	}
	checkUnwritable(t, root)
}

// checkUnwritable walks what is not a bind mount of the system: nothing there may be
// writable for QEMU's uid, but the devices.
func checkUnwritable(t *testing.T, root string) {
	for _, dir := range []string{"", "etc", "dev", "usr", "usr/share", "sockets", "sockets/0"} {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(root, dir), &st); err != nil {
			t.Fatal(err)
		}
		if st.Flags&unix.ST_RDONLY == 0 {
			t.Errorf("/%s is writable", dir)
		}
	}
	for _, name := range []string{"null", "zero", "urandom"} {
		info, err := os.Stat(filepath.Join(root, "dev", name))
		if err != nil || info.Mode() != fs.ModeDevice|fs.ModeCharDevice|0o600 {
			t.Errorf("/dev/%s: %v %v", name, info.Mode(), err)
		}
	}
}

// checkMounts wants every mount read-only and nosuid, and none of the host's others.
func checkMounts(t *testing.T, pid int) {
	var points []string
	for line := range strings.Lines(procFile(t, pid, "mountinfo")) {
		fields := strings.Fields(line)
		point, flags := fields[4], strings.Split(fields[5], ",")
		points = append(points, point)
		want := []string{"ro", "nosuid", "nodev"}
		if point == "/dev" {
			want = []string{"ro", "nosuid", "noexec"}
		}
		for _, w := range want {
			if !slices.Contains(flags, w) {
				t.Errorf("%s is mounted %q without %s", point, flags, w)
			}
		}
		if strings.Contains(line, "shared:") || strings.Contains(line, "master:") {
			t.Errorf("%s passes mounts on: %s", point, line)
		}
	}
	slices.Sort(points)
	want := []string{"/", "/dev", "/etc/ld.so.cache", "/sockets/0", DefaultBinary, "/usr/lib", "/usr/lib64", "/usr/share/qemu", "/usr/share/seabios"}
	slices.Sort(want)
	if !slices.Equal(points, want) {
		t.Errorf("mounts %q, want %q", points, want)
	}
}

// checkDescriptors wants nothing of the host open but what was handed over.
func checkDescriptors(t *testing.T, pid int) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		ok := strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:") || strings.HasPrefix(to, "anon_inode:") ||
			to == "/dev/null" || filepath.Base(to) == codeFile || filepath.Base(to) == varsFile || filepath.Base(to) == varsName
		if !ok {
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
}

func checkLimits(t *testing.T, pid int) {
	limits := procFile(t, pid, "limits")
	for name, want := range map[string]string{
		"Max core file size": "0 0", "Max open files": "1024 1024",
		"Max locked memory": "1048576 1048576", "Max processes": "2048 2048",
		// 2 GiB, 1 GiB for the emulator, 64 MiB of guest, a vCPU, 256 requests of a disk.
		"Max data size": "3833593856 3833593856",
	} {
		_, line, _ := strings.Cut(limits, name+" ")
		line, _, _ = strings.Cut(line, "\n")
		if f := strings.Fields(line); len(f) < 2 || f[0]+" "+f[1] != want {
			t.Errorf("%s: %q, want %q", name, line, want)
		}
	}
}

// checkModes is the table of the package comment.
func checkModes(t *testing.T, cfg Config) {
	dir := filepath.Join(cfg.RunDir, testID)
	for path, want := range map[string]struct {
		mode fs.FileMode
		gid  uint32
	}{
		cfg.RunDir:                      {fs.ModeDir | 0o700, 0},
		dir:                             {fs.ModeDir | 0o700, 0},
		filepath.Join(dir, monitorName): {fs.ModeDir | 0o700, 0},
		monitorPath(cfg, testID):        {fs.ModeSocket | 0o600, 0},
		SocketDir(cfg, testID):          {fs.ModeDir | 0o710, testUIDBase + 6},
		filepath.Join(dir, rootName):    {fs.ModeDir | 0o700, 0},
		filepath.Join(dir, varsName):    {0o600, 0},
	} {
		var st unix.Stat_t
		info, err := os.Lstat(path)
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err != nil || info.Mode() != want.mode || st.Uid != 0 || st.Gid != want.gid {
			t.Errorf("%s: %v, owner %d:%d, %v; want %v, 0:%d", path, info.Mode(), st.Uid, st.Gid, err, want.mode, want.gid)
		}
	}
}

func TestConfineRefuses(t *testing.T) {
	for name, orders := range map[string]string{
		"no JSON":      "{",
		"nothing":      "{}",
		"root's uid":   `{"isolate":true,"args":["/bin/true"],"root":"/x","uid":0,"gid":1,"memory":1}`,
		"no directory": `{"isolate":true,"args":["/bin/true"],"uid":1,"gid":1,"memory":1}`,
		"no limit":     `{"args":["/bin/true"]}`,
		"too long":     strings.Repeat(" ", maxConfinement+1),
	} {
		path := filepath.Join(t.TempDir(), "orders")
		if err := os.WriteFile(path, []byte(orders), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := readConfinement(fd); err == nil {
			t.Errorf("%s: accepted as %+v", name, c)
		}
	}
}

// TestConfinedSees runs another program than QEMU in the same confinement, with KVM's
// device, and has it say who it is and what it can do.
func TestConfinedSees(t *testing.T) {
	if !isRoot() {
		t.Skip("own uids and namespaces need root")
	}
	const shell = "/usr/bin/busybox"
	if _, err := os.Stat(shell); err != nil {
		t.Fatal("busybox is missing: apt install busybox-static")
	}
	cfg := testConfig(t)
	if _, err := Prepare(cfg, testID, 0); err != nil {
		t.Fatal(err)
	}
	_, noKVM := os.Stat("/dev/kvm")
	l := &launch{cfg: cfg, spec: &LaunchSpec{ID: testID}, isolate: true, binary: shell, line: commandLine{id: testID}}
	if noKVM == nil {
		l.accel = AccelKVM
	}
	l.giveOrders()
	l.orders.Memory = 100 << 20
	l.orders.Args = []string{shell, "sh", "-c", `id; hostname; dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null && echo some memory
dd if=/dev/zero of=/dev/null bs=128M count=1 2>/dev/null || echo no more memory; ls -ln /dev; ls -l /proc /sys /tmp /home 2>&1
echo x >/x; echo x >/dev/x; echo x >/usr/lib/x; echo x >/dev/null && echo null works; kill -0 1; /usr/bin/busybox mount -t tmpfs x /usr`}
	cmd, orders, output, err := l.spawn()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(&l.orders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := orders.Write(text); err != nil {
		t.Fatal(err)
	}
	orders.Close()
	said := &tail{max: stderrTail}
	<-drain(said, output)
	cmd.Wait()
	have := said.String()
	want := []string{
		"uid=787000 gid=787000\nuvbond\n", "null works", "some memory\nno more memory",
		"/proc: No such file", "/sys: No such file", "/tmp: No such file", "/home: No such file",
		"create /x: Read-only file system", "create /dev/x: Read-only file system", "create /usr/lib/x: Read-only file system",
		"kill pid 1: Operation not permitted", "mount: permission denied (are you root?)",
	}
	if noKVM == nil {
		want = append(want, "kvm")
	}
	for _, w := range want {
		if !strings.Contains(have, w) {
			t.Errorf("missing %q in:\n%s", w, have)
		}
	}
}
