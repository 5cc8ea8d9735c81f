package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/test/lab"
)

// The places that a disk is made in.
const (
	intoFile   = "into a file"
	intoServer = "onto an NBD server"
)

// What people do instead, and what it would take without a cipher.
const (
	bySHA256sum = "sha256sum; qemu-img to LUKS"
	byOpenSSL   = "openssl dgst; qemu-img to LUKS"
	byCopy      = "openssl dgst; plain copy"
)

// runBuild measures how long it takes until an enciphered disk holds a public image
// whose digest was checked.
func runBuild(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "A disk from a base image",
		intro: "512 MiB of noise in tmpfs become an enciphered disk there, in a file or on nbdkit. UVBond: all of `uvbond vm create --base … --sha256 …`, through the real server and daemon: registration, the image read and hashed twice " +
			"and enciphered, a record of how far it is after each step, receipts. Only the passphrase is stretched less than usual, since that takes the same time for any disk. The others check the digest first, as one should, then convert; " +
			"the LUKS header was made before, and is not counted. `sha256sum` is Debian's, which does not use the processor's instructions for SHA-256; `openssl dgst` does. CPU is of the client and the daemon, or of the tools; without nbdkit's.\n\n" +
			"    sha256sum BASE, openssl dgst -sha256 BASE\n" +
			"    qemu-img convert -n -t writeback -f raw --target-image-opts BASE driver=luks,…    (aes-256, xts, plain64)\n" +
			"    cp --sparse=never --reflink=never BASE FILE, nbdcopy BASE nbd+unix:///?socket=…",
		metrics: []metric{{"time", "s", "%.2f", 1}, {"bandwidth", "MB/s", "%.0f", 1e-6}, {"CPU", "CPU, s", "%.2f", 1}},
	}
	for _, t := range []string{intoFile, intoServer} {
		for _, p := range []string{bySHA256sum, byOpenSSL, byCopy} {
			r.ratios = append(r.ratios, promise{test: t, metric: "bandwidth", self: "UVBond", peer: p})
		}
	}
	b, err := newBuildBench(ctx, o)
	if err != nil {
		return nil, errors.Join(err, b.stop())
	}
	p := newProgress(o.rounds * 8)
	defer p.done()
	for range o.rounds {
		for _, t := range []string{intoFile, intoServer} {
			for _, peer := range []string{"UVBond", bySHA256sum, byOpenSSL, byCopy} {
				p.step("build: " + t + ", " + peer)
				s, err := b.measure(ctx, t, peer)
				if err != nil {
					return nil, errors.Join(fmt.Errorf("%s, %s: %w", t, peer, err), b.stop())
				}
				s["bandwidth"] = dataSize / s["time"]
				r.add(t, peer, s)
			}
		}
	}
	return r, b.stop()
}

// buildBench is what runs for the measurements.
type buildBench struct {
	base, sum string
	secret    string
	file      string // what is written to, through nbdkit too
	nbdkit    *peer
	hosts     map[string]*buildHost
	made      int // VMs so far
}

// buildHost is a server and a daemon whose disks lie in one of the places.
type buildHost struct {
	lab    *lab.Lab
	tenant *lab.Tenant
}

func (b *buildBench) stop() error {
	var errs []error
	for _, h := range b.hosts {
		errs = append(errs, h.lab.Close())
	}
	if b.nbdkit != nil {
		b.nbdkit.stop()
	}
	return errors.Join(errs...)
}

func newBuildBench(ctx context.Context, o *options) (*buildBench, error) {
	b := &buildBench{secret: filepath.Join(o.dir, "build.secret"), file: filepath.Join(o.dir, "build.img"), hosts: map[string]*buildHost{}}
	var err error
	if b.base, err = noise(o, "base", dataSize); err != nil {
		return b, err
	}
	if b.sum, err = digest(b.base); err != nil {
		return b, err
	}
	for _, err := range []error{os.WriteFile(b.secret, []byte("bench"), 0o600), os.Chmod(o.dir, 0o711), os.Chmod(b.base, 0o644), b.blank()} {
		if err != nil {
			return b, err
		}
	}
	// With one file it has one export, whatever that is called.
	if b.nbdkit, err = start(o, "build-nbdkit", nil, "nbdkit", "-f", "-U", "SOCKET", "file", b.file); err != nil {
		return b, err
	}
	for place, config := range map[string][2]string{
		intoFile:   {},
		intoServer: {fmt.Sprintf("[storage.nbdkit]\nuri = %q", "nbd+unix:///?socket="+b.nbdkit.socket), "[bases]\nstorage = \"nbdkit\""},
	} {
		if err := b.host(ctx, o, place, config); err != nil {
			return b, err
		}
	}
	return b, nil
}

// host starts a host with an image for everybody and a tenant.
func (b *buildBench) host(ctx context.Context, o *options, place string, config [2]string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data := filepath.Join(o.dir, strings.ReplaceAll(place, " ", "-"))
	l, err := lab.New(ctx, lab.Options{Bin: filepath.Dir(self), Operator: []string{self, "operator"}, Config: config[0], Server: config[1], Data: data})
	if err != nil {
		return err
	}
	h := &buildHost{lab: l}
	b.hosts[place] = h
	if r, err := l.Server(ctx, "base", "add", b.base); err != nil {
		return err
	} else if r.Code != 0 {
		return errors.New(r.String())
	}
	if h.tenant, err = l.Tenant(ctx, "bench", 0); err != nil {
		return err
	}
	if err := h.tenant.Write("passphrase", []byte("bench\n")); err != nil {
		return err
	}
	_, err = h.uvbond(ctx, "host", "add", "lab", l.URL, "--token-file", "token", "--yes")
	return err
}

// uvbond runs the client, which must succeed, and returns the processor time that it
// used, in seconds.
func (h *buildHost) uvbond(ctx context.Context, args ...string) (float64, error) {
	return timed(h.tenant.Command(ctx, args...))
}

// blank makes the file that is written to as long as a disk, and empty.
func (b *buildBench) blank() error {
	f, err := os.OpenFile(b.file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(luks.DataOffset+dataSize), f.Close())
}

func (b *buildBench) measure(ctx context.Context, place, peer string) (sample, error) {
	if err := b.blank(); err != nil {
		return nil, err
	}
	if peer == "UVBond" {
		return b.create(ctx, b.hosts[place])
	}
	var steps [][]string
	if peer == bySHA256sum {
		steps = append(steps, []string{"sha256sum", b.base})
	} else {
		steps = append(steps, []string{"openssl", "dgst", "-sha256", b.base})
	}
	if peer == byCopy {
		steps = append(steps, b.copy(place))
	} else {
		_, err := output(ctx, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512",
			"--hash", "sha256", "--pbkdf-force-iterations", "1000", "--key-file", b.secret, b.file)
		if err != nil {
			return nil, err
		}
		steps = append(steps, b.convert(place))
	}
	s := sample{}
	begin := time.Now()
	for _, argv := range steps {
		used, err := timed(exec.CommandContext(ctx, argv[0], argv[1:]...))
		if err != nil {
			return nil, err
		}
		s["CPU"] += used
	}
	s["time"] = time.Since(begin).Seconds()
	return s, nil
}

func (b *buildBench) convert(place string) []string {
	file := "file.driver=file,file.filename=" + b.file
	if place == intoServer {
		file = "file.driver=nbd,file.server.type=unix,file.server.path=" + b.nbdkit.socket
	}
	return []string{"qemu-img", "convert", "-n", "-t", "writeback", "-f", "raw", "--object", "secret,id=s,file=" + b.secret,
		"--target-image-opts", b.base, "driver=luks,key-secret=s," + file}
}

func (b *buildBench) copy(place string) []string {
	if place == intoServer {
		return []string{"nbdcopy", b.base, "nbd+unix:///?socket=" + b.nbdkit.socket}
	}
	return []string{"cp", "--sparse=never", "--reflink=never", b.base, b.file}
}

// create has a VM made with such a disk, and takes both away.
func (b *buildBench) create(ctx context.Context, h *buildHost) (sample, error) {
	b.made++
	name := "vm" + strconv.Itoa(b.made)
	daemon := h.lab.HypervisorPID()
	before, err := cpuOf(daemon)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	used, err := h.uvbond(ctx, "vm", "create", name, "--host", "lab", "--base", filepath.Base(b.base), "--sha256", b.sum, "--memory", "64MiB",
		"--passphrase-file", "passphrase", "--pbkdf-memory", "1024")
	if err != nil {
		return nil, err
	}
	took := time.Since(begin).Seconds()
	after, err := cpuOf(daemon)
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"vm", "delete", name, "--yes"}, {"disk", "remove", name + "-disk0", "--host", "lab", "--yes"}} {
		if _, err := h.uvbond(ctx, args...); err != nil {
			return nil, err
		}
	}
	return sample{"time": took, "CPU": used + after - before}, nil
}

// timed runs a program and returns the processor time that it used, in seconds.
func timed(cmd *exec.Cmd) (float64, error) {
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}
