package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
)

const (
	testVM     = "000102030405060708090a0b0c0d0e0f"
	keeperUID  = 64101
	qemuUID    = 64100
	strangeUID = 64102
	diskSize   = 8 << 20
	headerSize = 1 << 20
)

func isRoot() bool { return os.Geteuid() == 0 }

// tool returns a program's path; without it the test fails.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	return p
}

type fixture struct {
	Options
	key  []byte
	path string // of the ciphertext
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvk") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // the peers of the tests have other uids
		t.Fatal(err)
	}
	x, err := makeFixture(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Disks["root"].Close(); x.Ring.Close() })
	return x
}

func makeFixture(dir string) (*fixture, error) {
	x := &fixture{key: make([]byte, 64), path: filepath.Join(dir, "disk")}
	rand.Read(x.key)
	f, err := os.OpenFile(x.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(headerSize + diskSize); err != nil {
		return nil, err
	}
	ring, err := CreateRing(filepath.Join(dir, "ring"), 64<<10)
	if err != nil {
		return nil, err
	}
	control := filepath.Join(dir, "c")
	if err := os.Mkdir(control, 0o700); err != nil {
		return nil, err
	}
	qemu := uint32(qemuUID)
	if !isRoot() {
		qemu = uint32(os.Getuid())
	}
	x.Options = Options{
		UID: keeperUID, GID: keeperUID, Dir: control, SocketDir: filepath.Join(dir, "s"),
		Config: Config{VM: testVM, QEMUUID: qemu, Disks: []DiskConfig{{
			Name: "root", Key: bond.NewSecret(x.key), SectorSize: 4096, DataOffset: headerSize, Length: diskSize, Discard: true,
		}}},
		Disks: map[string]*os.File{"root": f}, Ring: ring, Stderr: os.Stderr,
	}
	return x, nil
}

func (x *fixture) start(t *testing.T) *Process {
	t.Helper()
	p, err := Start(t.Context(), x.Options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Close() })
	return p
}

// allowAny lets every process of QEMU's uid in.
func allowAny(t *testing.T, p *Process) {
	t.Helper()
	if err := p.AllowPeer(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// as makes cmd run under another uid, when the test may do that.
func as(cmd *exec.Cmd, uid uint32) *exec.Cmd {
	if isRoot() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}}
	}
	cmd.Dir = "/"
	return cmd
}

func nbdURI(p *Process) string { return "nbd+unix:///root?socket=" + p.DiskPath("root") }

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, b)
	}
	return string(b)
}

func qemuIO(t *testing.T, p *Process, commands ...string) *exec.Cmd {
	args := []string{"-f", "raw", nbdURI(p)}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return as(exec.Command(tool(t, "qemu-io", "qemu-utils"), args...), qemuUID)
}

func TestServe(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	allowAny(t, p)
	info := output(t, as(exec.Command(tool(t, "nbdinfo", "libnbd-bin"), "--size", nbdURI(p)), qemuUID))
	if strings.TrimSpace(info) != strconv.Itoa(diskSize) {
		t.Fatalf("size %q", info)
	}
	out := output(t, qemuIO(t, p, "write -P 0x5a 1M 64k", "flush", "read -v -P 0x5a 1M 4k"))
	if strings.Contains(out, "failed") {
		t.Fatal(out)
	}
	b, err := os.ReadFile(x.path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, bytes.Repeat([]byte{0x5a}, 32)) {
		t.Fatal("plaintext reached the storage")
	}
	if bytes.Equal(b[headerSize+1<<20:headerSize+1<<20+4096], make([]byte, 4096)) {
		t.Fatal("nothing reached the storage")
	}
	if out, _ := qemuIO(t, p, "read -P 0x5b 1M 64k").CombinedOutput(); !bytes.Contains(out, []byte("Pattern verification failed")) {
		t.Fatalf("qemu-io did not compare: %s", out)
	}
	s, err := p.Stats(t.Context())
	if err != nil || s.VM != testVM || len(s.Disks) != 1 || s.Disks[0].NBD.WrittenBytes < 64<<10 {
		t.Fatalf("stats %+v, %v", s, err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	// A keeper that starts anew reads what the first one wrote.
	q := x.start(t)
	allowAny(t, q)
	if out := output(t, qemuIO(t, q, "read -P 0x5a 1M 64k")); strings.Contains(out, "failed") {
		t.Fatal(out)
	}
}

func TestPeers(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	if err := p.AllowPeer(t.Context(), os.Getpid()); err != nil { // not the client's
		t.Fatal(err)
	}
	nbdinfo := tool(t, "nbdinfo", "libnbd-bin")
	if b, err := as(exec.Command(nbdinfo, nbdURI(p)), x.Config.QEMUUID).CombinedOutput(); err == nil {
		t.Fatalf("another pid was served: %s", b)
	}
	if isRoot() {
		if b, err := as(exec.Command(nbdinfo, nbdURI(p)), strangeUID).CombinedOutput(); err == nil || !bytes.Contains(b, []byte("Permission denied")) {
			t.Fatalf("another uid reached the socket: %v %s", err, b)
		}
		allowAny(t, p)
		// Root gets through to the socket, and is refused by the keeper.
		if b, err := exec.Command(nbdinfo, nbdURI(p)).CombinedOutput(); err == nil {
			t.Fatalf("root was served: %s", b)
		}
	}
	allowAny(t, p)
	output(t, as(exec.Command(nbdinfo, nbdURI(p)), x.Config.QEMUUID))
	s, err := p.Stats(t.Context())
	if err != nil || s.Disks[0].NBD.Refused == 0 {
		t.Fatalf("stats %+v, %v", s, err)
	}
}

// QEMU connects before the daemon can say what its pid is.
func TestPeerWaits(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	cmd := as(exec.Command(tool(t, "nbdinfo", "libnbd-bin"), nbdURI(p)), x.Config.QEMUUID)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if err := p.AllowPeer(t.Context(), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	dir, sock := os.FileMode(0o700), os.FileMode(0o600)
	if isRoot() {
		dir, sock = 0o710, 0o660
	}
	for path, want := range map[string]os.FileMode{x.SocketDir: dir, p.DiskPath("root"): sock, p.ConsolePath(): sock, filepath.Join(x.Dir, controlName): 0o600} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uint32(os.Geteuid()) {
			t.Errorf("%s belongs to uid %d", path, st.Uid)
		}
	}
}

func procFile(t *testing.T, p *Process, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func statusField(t *testing.T, p *Process, key string) string {
	t.Helper()
	for line := range strings.Lines(procFile(t, p, "status")) {
		if k, v, _ := strings.Cut(line, ":"); k == key {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	t.Fatalf("no %s in /proc/PID/status", key)
	return ""
}

// buildKeeper builds the keeper as it is shipped, without cgo, which a test binary
// may be linked with.
func buildKeeper(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "keeper")
	cmd := exec.Command("go", "build", "-o", path, "./testkeeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	output(t, cmd)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfinement(t *testing.T) {
	if !isRoot() {
		t.Skip("namespaces and another uid need root")
	}
	x := newFixture(t)
	t.Setenv("UVBOND_TEST_ENV", "leaks")
	x.Self, x.Args = buildKeeper(t, filepath.Dir(x.path)), []string{}
	p := x.start(t)
	for _, name := range []string{"environ", "cmdline"} {
		s := procFile(t, p, name)
		if strings.Contains(s, string(x.key)) || strings.Contains(s, hex.EncodeToString(x.key)) || strings.Contains(s, "leaks") {
			t.Errorf("%s: %q", name, s)
		}
	}
	if s := procFile(t, p, "environ"); s != "" {
		t.Errorf("environment %q", s)
	}
	if s := procFile(t, p, "limits"); maxData > 0 && !regexp.MustCompile(`(?m)^Max data size +1073741824 +1073741824 +bytes`).MatchString(s) {
		t.Errorf("memory is not bounded:\n%s", s)
	}
	if got := statusField(t, p, "Uid"); got != "64101 64101 64101 64101" {
		t.Errorf("uids %s", got)
	}
	if got := statusField(t, p, "Groups"); got != "" {
		t.Errorf("groups %s", got)
	}
	if got := statusField(t, p, "CapPrm"); got != "0000000000000000" {
		t.Errorf("capabilities %s", got)
	}
	if st, err := os.Stat(fmt.Sprintf("/proc/%d/fd", p.PID())); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the keeper can be traced by its own uid: %v", err)
	}
	for _, ns := range []string{"net", "mnt", "ipc", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID(), ns))
		if err != nil || ours == theirs {
			t.Errorf("%s namespace is shared: %s, %v", ns, theirs, err)
		}
	}
	s, err := p.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := statusField(t, p, "NoNewPrivs"); got != "1" || !s.Confinement.NoNewPrivileges {
		t.Errorf("no_new_privs %s, %+v", got, s.Confinement)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno == 0 && s.Confinement.Landlock == 0 {
		t.Errorf("landlock is not in force: %+v", s.Confinement)
	}
	rss, _ := strconv.Atoi(strings.Fields(statusField(t, p, "VmRSS"))[0])
	t.Logf("idle: %d KiB RSS, %s; %+v", rss, statusField(t, p, "Threads"), s.Confinement)
	if rss > 16<<10 {
		t.Errorf("idle keeper has %d KiB", rss)
	}
}

// A client survives the death of its keeper: its connection waits in the
// listener that the daemon holds, and its requests are sent again.
func TestReplaceKeeper(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	allowAny(t, p)
	node := fmt.Sprintf(`driver=nbd,server.type=unix,server.path=%s,export=root,reconnect-delay=60`, p.DiskPath("root"))
	cmd := as(exec.Command(tool(t, "qemu-io", "qemu-utils"), "--image-opts", node), qemuUID)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// One line at a time: qemu-io does not notice a second one in its buffer.
	fmt.Fprintln(in, "write -f -P 0x11 0 1M")
	waitFor(t, "the write", func() bool {
		s, err := p.Stats(t.Context())
		return err == nil && s.Disks[0].NBD.Writes > 0
	})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Fatal("Kill returned before the end")
	}
	fmt.Fprintln(in, "write -P 0x22 1M 1M")
	time.Sleep(300 * time.Millisecond)
	x.Sockets = p.Sockets()
	q := x.start(t)
	allowAny(t, q)
	for i, line := range []string{"read -P 0x11 0 1M", "read -P 0x22 1M 1M", "quit"} {
		waitFor(t, line, func() bool {
			s, err := q.Stats(t.Context())
			return err == nil && s.Disks[0].NBD.Writes == 1 && s.Disks[0].NBD.Reads >= uint64(i)
		})
		fmt.Fprintln(in, line)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if s := out.String(); strings.Contains(s, "failed") || strings.Count(s, "read 1048576/1048576") != 2 {
		t.Fatal(s)
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 200 {
		if f() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("waited too long for %s", what)
}

func TestAdopt(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	if _, err := Adopt(x.Dir, p.PID(), p.StartTime()+1); !errors.Is(err, ErrGone) {
		t.Fatalf("another start time: %v", err)
	}
	if _, err := Adopt(x.Dir, 1, 1); err == nil {
		t.Fatal("adopted init")
	}
	q, err := Adopt(x.Dir, p.PID(), p.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if q.DiskPath("root") != p.DiskPath("root") || q.ConsolePath() != p.ConsolePath() {
		t.Fatal("adopted keeper has other paths")
	}
	allowAny(t, q)
	output(t, qemuIO(t, q, "write -P 1 0 4k"))
	files, err := q.Files(t.Context())
	if err != nil || len(files) != 1 || files["root"] == nil {
		t.Fatalf("files %v, %v", files, err)
	}
	a, _ := files["root"].Stat()
	b, _ := x.Disks["root"].Stat()
	if !os.SameFile(a, b) {
		t.Fatal("another file came back")
	}
	select {
	case <-q.Done():
		t.Fatal("an adopted keeper that runs is said to be done")
	default:
	}
	// Replaced with what adoption brought back.
	if err := q.Kill(); err != nil {
		t.Fatal(err)
	}
	x.Sockets, x.Disks = q.Sockets(), files
	r := x.start(t)
	files["root"].Close()
	allowAny(t, r)
	if out := output(t, qemuIO(t, r, "read -P 1 0 4k")); strings.Contains(out, "failed") {
		t.Fatal(out)
	}
}

// An error of the storage is an I/O error for the client, and the connection lives on.
func TestIOError(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	allowAny(t, p)
	if err := x.Disks["root"].Truncate(headerSize); err != nil { // reads hit the end of the file
		t.Fatal(err)
	}
	b, err := qemuIO(t, p, "read 1M 4k").CombinedOutput()
	if !bytes.Contains(b, []byte("Input/output error")) {
		t.Fatalf("%v: %s", err, b)
	}
	output(t, as(exec.Command(tool(t, "nbdinfo", "libnbd-bin"), nbdURI(p)), qemuUID))
}

func TestStartRefuses(t *testing.T) {
	for name, change := range map[string]func(*fixture){
		"no vm":          func(x *fixture) { x.Config.VM = "" },
		"no disks":       func(x *fixture) { x.Config.Disks = nil },
		"two of a name":  func(x *fixture) { x.Config.Disks = append(x.Config.Disks, x.Config.Disks[0]) },
		"name":           func(x *fixture) { x.Config.Disks[0].Name = "../root" },
		"no key":         func(x *fixture) { x.Config.Disks[0].Key = nil },
		"short key":      func(x *fixture) { x.Config.Disks[0].Key = bond.RandomSecret(16) },
		"equal halves":   func(x *fixture) { x.Config.Disks[0].Key = bond.NewSecret(make([]byte, 64)) },
		"sector size":    func(x *fixture) { x.Config.Disks[0].SectorSize = 1000 },
		"too long":       func(x *fixture) { x.Config.Disks[0].Length = diskSize + 4096 },
		"overflow":       func(x *fixture) { x.Config.Disks[0].DataOffset = 1<<64 - 4096 },
		"no length":      func(x *fixture) { x.Config.Disks[0].Length = 0 },
		"no file":        func(x *fixture) { x.Disks = nil },
		"read-only file": func(x *fixture) { x.Disks["root"], _ = os.Open(x.path) },
		"no ring":        func(x *fixture) { x.Ring = nil },
		"not a ring":     func(x *fixture) { x.Ring = x.Disks["root"] },
		"no program":     func(x *fixture) { x.Self = "/nonexistent" },
		"wrong program":  func(x *fixture) { x.Self, x.Args = "/bin/true", []string{} },
		"stray argument": func(x *fixture) { x.Args = []string{"keeper", "folder", "stray"} },
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.Stderr = nil
			change(x)
			p, err := Start(t.Context(), x.Options)
			if err == nil {
				p.Kill()
				t.Fatal("started")
			}
			t.Log(err)
		})
	}
}

func TestStartAloneFails(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "keeper")
	b, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(b, []byte("started by the daemon only")) {
		t.Fatalf("%v: %s", err, b)
	}
}

func dialAs(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestControlRefuses(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	for name, message := range map[string][]byte{
		"empty":           {},
		"not cbor":        []byte("stop"),
		"unknown command": must(encode(&request{Command: "open-sesame"})),
		"unknown field":   must(encode(map[int]any{1: cmdStats, 9: 1})),
		"trailing data":   append(must(encode(&request{Command: cmdStats})), 0),
		"duplicate key":   {0xa2, 1, 0x64, 's', 't', 'o', 'p', 1, 0x64, 's', 't', 'o', 'p'},
		"too long":        make([]byte, maxMessage+1),
		"negative pid":    must(encode(&request{Command: cmdAllowPeer, PID: -1})),
	} {
		c := dialAs(t, filepath.Join(x.Dir, controlName))
		if _, err := c.Write(message); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var r response
		if _, err := receive(c, &r); err == nil && r.Error == "" {
			t.Errorf("%s was accepted", name)
		}
		c.Close()
	}
	if _, err := p.Stats(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStopAdopted(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	q, err := Adopt(x.Dir, p.PID(), p.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Stats(ctx); err == nil {
		t.Fatal("a keeper that ended answers")
	}
	if _, err := Adopt(x.Dir, p.PID(), p.StartTime()); !errors.Is(err, ErrGone) {
		t.Fatal(err)
	}
}

// The keeper outlives the daemon that started it, and the next one adopts it.
func TestDaemonDies(t *testing.T) {
	dir, err := os.MkdirTemp("", "uvk")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	b, err := exec.Command("/proc/self/exe", "daemon", dir).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscan(string(b), &pid, &start); err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	defer func() { // whatever happens, nothing is left running
		if f, err := openProcess(pid, start); err == nil {
			signalProcess(f, unix.SIGKILL)
			f.Close()
		}
	}()
	p, err := Adopt(filepath.Join(dir, "c"), pid, start)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	allowAny(t, p)
	output(t, qemuIO(t, p, "write -P 1 0 64k", "flush", "read -P 1 0 64k"))
	if _, _, _, err := p.Console(0, 10); err != nil {
		t.Fatal(err)
	}
	// SIGTERM, as at the end of the machine, is an orderly stop.
	if err := signalProcess(p.proc, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		p.Kill()
		t.Fatal("did not stop")
	}
}

func TestReadOnly(t *testing.T) {
	x := newFixture(t)
	f, err := os.Open(x.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rw := x.Disks["root"]
	x.Disks = map[string]*os.File{"root": f}
	if p, err := Start(t.Context(), x.Options); err == nil {
		p.Kill()
		t.Fatal("a read-only descriptor was taken for a writable disk")
	}
	x.Config.Disks[0].ReadOnly = true
	p := x.start(t)
	allowAny(t, p)
	if b, err := qemuIO(t, p, "write 0 4k").CombinedOutput(); err == nil {
		t.Fatalf("written: %s", b)
	}
	x.Disks = map[string]*os.File{"root": rw} // for the cleanup
}
