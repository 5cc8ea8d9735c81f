package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/test/guest"
)

// guestSize is the size of each disk that the guest measures, in bytes.
const guestSize = 256 << 20

// guestTests are fio's patterns in the guest.
var guestTests = []struct{ name, rw, bs, depth string }{
	{"4 KiB random read", "randread", "4k", "16"},
	{"4 KiB random write", "randwrite", "4k", "16"},
	{"1 MiB sequential read", "read", "1M", "4"},
	{"1 MiB sequential write", "write", "1M", "4"},
}

// qemuRun is one QEMU with its serial output.
type qemuRun struct {
	cmd   *exec.Cmd
	lines chan string
}

// boot starts a guest by TCG, as the hypervisor does where there is no KVM.
func boot(ctx context.Context, args ...string) (*qemuRun, error) {
	argv := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg,usb=off,memory-backend=mem",
		"-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-m", "512M", "-cpu", "qemu64", "-smp", "1",
		"-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial", "-boot", "strict=on"}, args...)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (hack/install-deps.sh all)", err)
	}
	q := &qemuRun{cmd, make(chan string, 1000)}
	go func() {
		defer close(q.lines)
		s := bufio.NewScanner(io.Reader(out))
		for s.Scan() {
			q.lines <- strings.TrimRight(s.Text(), "\r")
		}
	}()
	return q, nil
}

func (q *qemuRun) stop() {
	_ = q.cmd.Process.Kill()
	for range q.lines {
	}
	_ = q.cmd.Wait()
}

// await returns when a line that begins with prefix comes; others go to each.
func (q *qemuRun) await(ctx context.Context, prefix string, limit time.Duration, each func(string)) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-q.lines:
			if !ok {
				return fmt.Errorf("the guest ended before %q", prefix)
			}
			if strings.HasPrefix(line, prefix) {
				return nil
			}
			if each != nil {
				each(line)
			}
		case <-timer.C:
			return fmt.Errorf("the guest did not say %q in %v", prefix, limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func nbdDisk(id, socket string) []string {
	return []string{"-blockdev", fmt.Sprintf(`{"driver":"nbd","node-name":"%s","server":{"type":"unix","path":"%s"},"export":""}`, id, socket)}
}

func fileDisk(id, path string) []string {
	return []string{"-blockdev", fmt.Sprintf(`{"driver":"file","node-name":"%s","filename":"%s","cache":{"direct":false}}`, id, path)}
}

func virtioDisk(id string, more string) []string {
	return []string{"-device", "virtio-blk-pci,drive=" + id + ",serial=" + id + more}
}

// guestScript measures every disk in turn, rounds times. dm-crypt gets a table with
// a key of its own: this is about speed.
func guestScript(o *options) string {
	var b strings.Builder
	b.WriteString(`driver dm-crypt
disk() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo /dev/${d##*/}; done; }
k=$(head -c 64 /dev/urandom | hexdump -v -e '/1 "%02x"')
head -c 64 /dev/urandom > /run/key
cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/key --sector-size 4096 $(disk crypt) crypted || exit 1
ls -l /dev/mapper
measure() { # name device test rw bs depth
	r=$(fio --name=x --filename=$2 --rw=$4 --bs=$5 --iodepth=$6 --ioengine=libaio --direct=1 --time_based --runtime=SECONDS --minimal 2>&1 | grep ';')
	echo "BENCH;$1;$3;$r"
}
`)
	fmt.Fprintf(&b, "for round in $(seq %d); do\n", o.rounds)
	for _, t := range guestTests {
		for _, d := range []struct{ name, device string }{
			{"plain", "$(disk plain)"}, {"UVBond NBD", "$(disk nbd)"}, {"UVBond vhost-user", "$(disk vhost)"}, {"dm-crypt in the guest", "/dev/mapper/crypted"},
		} {
			fmt.Fprintf(&b, "measure '%s' %s '%s' %s %s %s\n", d.name, d.device, t.name, t.rw, t.bs, t.depth)
		}
	}
	b.WriteString("done")
	return strings.ReplaceAll(b.String(), "SECONDS", strconv.Itoa(max(1, int(o.seconds))))
}

func runGuest(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "In a guest under TCG",
		intro: "fio (libaio, O_DIRECT) in one Linux guest with four disks of 256 MiB in tmpfs: a plain file, UVBond over NBD, UVBond over vhost-user-blk, and a plain file " +
			"under the guest's own dm-crypt (plain64, 4096-byte sectors). Processor and devices of the guest are emulated, so the guest is the bottleneck, " +
			"and dm-crypt pays for AES in an emulated processor without AES instructions: its figures say little about dm-crypt on a real one.",
		metrics: []metric{{"bandwidth", "MB/s", "%.1f", 1e-6}, {"IOPS", "IOPS", "%.0f", 1}},
	}
	for _, t := range guestTests {
		for _, p := range []string{"UVBond NBD", "UVBond vhost-user"} {
			r.promises = append(r.promises, promise{test: t.name, metric: "bandwidth", self: p, peer: "plain", least: 0.97})
		}
		for _, p := range []string{"UVBond NBD", "UVBond vhost-user"} {
			r.ratios = append(r.ratios, promise{test: t.name, metric: "bandwidth", self: p, peer: "dm-crypt in the guest"})
		}
	}
	root, err := guest.Build(ctx, guest.Options{Fio: true, Cryptsetup: true, Script: guestScript(o)})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, name := range []string{"plain", "nbd", "vhost", "crypt"} {
		if paths[name], err = noise(o, "guest-"+name, guestSize); err != nil {
			return nil, err
		}
	}
	n, err := start(o, "guest nbd", nil, self, "serve-nbd", paths["nbd"], "SOCKET")
	if err != nil {
		return nil, err
	}
	defer n.stop()
	v, err := start(o, "guest vhost", nil, self, "serve-vhost", paths["vhost"], "SOCKET", "1")
	if err != nil {
		return nil, err
	}
	defer v.stop()
	boots := filepath.Join(o.dir, "boot.img")
	if err := guest.Copy(ctx, root, boots); err != nil {
		return nil, err
	}
	args := append(fileDisk("boot", boots), virtioDisk("boot", ",bootindex=0")...)
	args = append(append(args, fileDisk("plain", paths["plain"])...), virtioDisk("plain", "")...)
	args = append(append(args, fileDisk("crypt", paths["crypt"])...), virtioDisk("crypt", "")...)
	args = append(append(args, nbdDisk("nbd", n.socket)...), virtioDisk("nbd", "")...)
	args = append(args, "-chardev", "socket,id=vhost,path="+v.socket, "-device", "vhost-user-blk-pci,chardev=vhost,num-queues=1")
	q, err := boot(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer q.stop()
	p := newProgress(o.rounds * len(guestTests) * 4)
	defer p.done()
	limit := time.Duration(float64(o.rounds*len(guestTests)*4)*(o.seconds+4)*float64(time.Second)) + time.Minute
	err = q.await(ctx, "UVBOND-SCRIPT-DONE", limit, func(line string) {
		f := strings.Split(line, ";")
		if len(f) < 60 || f[0] != "BENCH" {
			return
		}
		p.step("guest: " + f[2] + ", " + f[1])
		// fio's terse format 3, behind our two fields: 7 is the read bandwidth
		// in KiB/s, 8 its IOPS, 48 and 49 those of writes (fio(1), terse).
		f = f[3:]
		num := func(i int) float64 { v, _ := strconv.ParseFloat(f[i], 64); return v }
		r.add(strings.Split(line, ";")[2], strings.Split(line, ";")[1], sample{"bandwidth": (num(6) + num(47)) * 1024, "IOPS": num(7) + num(48)})
	})
	if err == nil && len(r.tests) != len(guestTests) {
		err = fmt.Errorf("the guest measured %d of %d patterns", len(r.tests), len(guestTests))
	}
	return r, err
}

// runBoot boots the demo's guest from a plain file and from the enciphered disk.
func runBoot(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "Boot",
		intro: "From the start of QEMU (TCG) to the guest's UVBOND-READY: SeaBIOS, syslinux, Linux, a small system that has its power button working. virtio-blk; " +
			"the plain disk is a file of QEMU's, the enciphered one comes over NBD.",
		metrics:  []metric{{"time", "s", "%.2f", 1}},
		promises: []promise{{test: "boot", metric: "time", self: "UVBond", peer: "plain", least: 1 / 1.03, less: true}},
	}
	root, err := guest.Build(ctx, guest.Options{Secret: "bench"})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rounds := max(o.rounds, 7) // the difference is small
	p := newProgress(2 * rounds)
	defer p.done()
	for i := range rounds {
		for _, name := range []string{"plain", "UVBond"} {
			p.step("boot: " + name)
			took, err := bootOnce(ctx, o, self, root, name == "UVBond", i)
			if err != nil {
				return nil, err
			}
			r.add("boot", name, sample{"time": took.Seconds()})
		}
	}
	return r, nil
}

func bootOnce(ctx context.Context, o *options, self, root string, sealed bool, round int) (time.Duration, error) {
	path := filepath.Join(o.dir, "boot-one.img")
	if err := guest.Copy(ctx, root, path); err != nil {
		return 0, err
	}
	defer os.Remove(path)
	args := fileDisk("boot", path)
	if sealed {
		if err := encipher(path); err != nil {
			return 0, err
		}
		p, err := start(o, fmt.Sprintf("boot %d", round), nil, self, "serve-nbd", path, "SOCKET")
		if err != nil {
			return 0, err
		}
		defer p.stop()
		args = nbdDisk("boot", p.socket)
	}
	began := time.Now()
	q, err := boot(ctx, append(args, virtioDisk("boot", ",bootindex=0")...)...)
	if err != nil {
		return 0, err
	}
	defer q.stop()
	err = q.await(ctx, "UVBOND-READY", 2*time.Minute, nil)
	return time.Since(began), err
}

// encipher turns a plain file into what open expects.
func encipher(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if rest := info.Size() % 4096; rest != 0 {
		if err := f.Truncate(info.Size() + 4096 - rest); err != nil {
			return err
		}
	}
	d, err := open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), d.Size()-off)]
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		if _, err := d.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}
