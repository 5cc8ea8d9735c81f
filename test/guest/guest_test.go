package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func build(t *testing.T, o Options) string {
	t.Helper()
	path, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Kernel: "other"}, {Secret: "a\nb"}, {Cmdline: "a\x00"}, {SizeMiB: 1, Secret: "small"}} {
		if _, err := Build(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestCache(t *testing.T) {
	a, b := build(t, Options{Secret: "one"}), build(t, Options{Secret: "one", Kernel: Cloud})
	if a != b {
		t.Error("the same disk twice")
	}
	fi, err := os.Stat(a)
	if err != nil || fi.Size() > 64<<20 {
		t.Errorf("%d bytes, %v", fi.Size(), err)
	}
	if c := build(t, Options{Secret: "two"}); c == a {
		t.Error("another secret, the same disk")
	}
}

func TestInitramfsIsACpioArchive(t *testing.T) {
	tr := newTree()
	tr.file("a/b/file", 0o644, []byte("text!"))
	tr.link("a/link", "b/file")
	b, err := tr.initramfs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "gunzip | cpio -i --quiet --to-stdout a/b/file && true")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "text!" {
		t.Errorf("cpio: %v: %s (apt-get install cpio)", err, out)
	}
}

func TestModuleOrder(t *testing.T) {
	build(t, Options{Secret: "one"})
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	m, err := loadModules(filepath.Join(cache, "packages", "linux-image-cloud-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	order, err := m.order("virtio")
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) int { return slices.Index(order, name) }
	if at("virtio") < 0 || at("virtio_ring") > at("virtio_pci") || at("virtio_pci") > at("virtio_blk") {
		t.Error(order)
	}
}

// vm is QEMU without any of UVBond.
type vm struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	qmp   string
}

func boot(t *testing.T, disk, format string, args ...string) *vm {
	t.Helper()
	v := &vm{t: t, lines: make(chan string, 1000), qmp: filepath.Join(t.TempDir(), "qmp")}
	v.cmd = exec.Command("qemu-system-x86_64", append([]string{"-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "tcg", "-m", "256", "-serial", "stdio", "-qmp", "unix:" + v.qmp + ",server=on,wait=off",
		"-drive", "if=none,id=d,format=" + format + ",file=" + disk}, args...)...)
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatalf("%v (apt-get install qemu-system-x86)", err)
	}
	t.Cleanup(func() { _ = v.cmd.Process.Kill(); _ = v.cmd.Wait() })
	go func() {
		defer close(v.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			v.lines <- strings.TrimSpace(s.Text())
		}
	}()
	return v
}

// expect waits for a line with the text and returns what follows the text.
func (v *vm) expect(text string) string {
	v.t.Helper()
	var seen []string
	timeout := time.After(90 * time.Second)
	for {
		select {
		case line, ok := <-v.lines:
			if _, rest, found := strings.Cut(line, text); found {
				return strings.TrimSpace(rest)
			}
			if seen = append(seen, line); !ok {
				v.t.Fatalf("QEMU ended before %q:\n%s", text, strings.Join(seen, "\n"))
			}
		case <-timeout:
			v.t.Fatalf("no %q:\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

func (v *vm) execute(commands ...string) {
	v.t.Helper()
	c, err := net.Dial("unix", v.qmp)
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for _, cmd := range append([]string{"qmp_capabilities"}, commands...) {
		if err := json.NewEncoder(c).Encode(map[string]string{"execute": cmd}); err != nil {
			v.t.Fatal(err)
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				v.t.Fatal(err)
			}
			if strings.Contains(line, `"return"`) {
				break
			}
		}
	}
}

func (v *vm) powerButton() {
	v.t.Helper()
	v.execute("system_powerdown")
	v.expect("UVBOND-GUEST-DOWN")
	if err := v.cmd.Wait(); err != nil {
		v.t.Errorf("QEMU after the power button: %v", err)
	}
}

// bothTerminals waits until the shells' loops run on the serial port and on the screen: the
// first one's setsid was sometimes taken for the second one's.
const bothTerminals = `for device in ttyS0 tty1; do
	until cat /proc/[0-9]*/cmdline | tr '\0' ' ' | grep -q "terminal[ ]$device "; do usleep 50000; done
	[ -s /run/terminal-$device.pid ] || exit 1
done
echo both terminals run
`

func TestReset(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := Copy(t.Context(), build(t, Options{Secret: "one"}), disk); err != nil {
		t.Fatal(err)
	}
	v := boot(t, disk, "raw", "-machine", "q35", "-device", "virtio-blk-pci,drive=d")
	first := v.expect("UVBOND-GUEST-UP")
	v.expect("tick 2")
	v.execute("system_reset")
	if again := v.expect("UVBOND-GUEST-UP"); again == first {
		t.Errorf("both boots are %q", first)
	}
	if s := v.expect("UVBOND-BOOTS"); s != "2 root /dev/vda2 counter 2" && s != "2 root /dev/vda2 counter 3" {
		t.Errorf("after a reset: %s", s)
	}
}

func TestUEFIFromQCOW2OnVirtio(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := QCOW2(t.Context(), build(t, Options{Secret: "two", Script: bothTerminals + "echo root is $1; exit 3"}), disk); err != nil {
		t.Fatal(err)
	}
	v := boot(t, disk, "qcow2", append(uefi(t), "-machine", "q35", "-device", "virtio-blk-pci,drive=d,bootindex=0")...)
	v.expect("UVBOND-GUEST-UP")
	v.expect("both terminals run")
	v.expect("root is /dev/vda2")
	if s := v.expect("UVBOND-SCRIPT-DONE"); s != "3" {
		t.Error(s)
	}
	v.expect("tick 1")
	v.powerButton()
}

func uefi(t *testing.T) []string {
	t.Helper()
	const code, vars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	if _, err := os.Stat(code); err != nil {
		t.Fatalf("%v (apt-get install ovmf)", err)
	}
	return []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,format=raw,snapshot=on,file=" + vars}
}

func TestCancelled(t *testing.T) {
	mine := t.TempDir()
	t.Setenv("UVBOND_CACHE", mine)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, Options{Secret: time.Now().String()}); err == nil {
		t.Error("a cancelled build succeeded")
	}
	left, _ := filepath.Glob(filepath.Join(mine, "guest", "build-*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
