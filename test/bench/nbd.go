package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// luks1Offset is where cryptsetup lets the data of a LUKS1 disk begin, in bytes.
const luks1Offset = 2 << 20

// dataSize is how much each peer serves, in bytes.
const dataSize = 512 << 20

// nbdTest is one pattern of access.
type nbdTest struct {
	name, rw, bs string
	depth        int
}

var nbdTests = []nbdTest{
	{"4 KiB random read, depth 32", "randread", "4k", 32},
	{"4 KiB random write, depth 32", "randwrite", "4k", 32},
	{"4 KiB random read, depth 1", "randread", "4k", 1},
	{"4 KiB random write, depth 1", "randwrite", "4k", 1},
	{"1 MiB sequential read, depth 4", "read", "1M", 4},
	{"1 MiB sequential write, depth 4", "write", "1M", 4},
}

func runNBD(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "NBD, one connection",
		intro: "fio's nbd engine on a unix socket; 512 MiB in tmpfs for each peer. UVBond enciphers with AES-256-XTS in 4096-byte sectors; the LUKS peers do as well, " +
			"in sectors of 512 bytes, which is all that their format has. CPU is what the server used.\n\n" +
			"    fio --ioengine=nbd --uri=nbd+unix:///?socket=… --rw=… --bs=… --iodepth=… --time_based --runtime=" + strconv.FormatFloat(o.seconds, 'g', -1, 64),
		metrics: []metric{
			{"IOPS", "IOPS", "%.0f", 1}, {"bandwidth", "MB/s", "%.0f", 1e-6}, {"latency", "mean latency, µs", "%.1f", 1e6}, {"CPU", "CPU, µs per request", "%.2f", 1e6},
		},
		promises: []promise{
			{test: nbdTests[0].name, metric: "IOPS", peer: "nbdkit", least: 1.2},
			{test: nbdTests[1].name, metric: "IOPS", peer: "nbdkit", least: 1.2},
			{test: nbdTests[0].name, metric: "IOPS", peer: "qemu-nbd LUKS", least: 4},
			{test: nbdTests[1].name, metric: "IOPS", peer: "qemu-nbd LUKS", least: 4},
			{test: nbdTests[2].name, metric: "latency", peer: "qemu-nbd", least: 1, less: true},
			{test: nbdTests[3].name, metric: "latency", peer: "qemu-nbd", least: 1, less: true},
			{test: nbdTests[4].name, metric: "bandwidth", peer: "nbdkit", least: 1},
			{test: nbdTests[5].name, metric: "bandwidth", peer: "nbdkit", least: 1},
			{test: nbdTests[4].name, metric: "bandwidth", peer: "nbdkit LUKS", least: 2},
			{test: nbdTests[5].name, metric: "bandwidth", peer: "nbdkit LUKS", least: 2},
		},
	}
	peers, err := nbdPeers(ctx, o)
	for _, p := range peers {
		defer p.stop()
	}
	if err != nil {
		return nil, err
	}
	p := newProgress(o.rounds * len(nbdTests) * len(peers))
	defer p.done()
	for range o.rounds {
		for _, t := range nbdTests {
			for _, peer := range peers {
				p.step("nbd: " + t.name + ", " + peer.name)
				s, err := t.measure(ctx, o, peer)
				if err != nil {
					return nil, err
				}
				r.add(t.name, peer.name, s)
			}
		}
	}
	return r, nil
}

// nbdPeers starts all servers, each on a file of its own.
func nbdPeers(ctx context.Context, o *options) (peers []*peer, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	secret := filepath.Join(o.dir, "secret")
	if err := os.WriteFile(secret, []byte("bench"), 0o600); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		name string
		luks bool
		argv []string
	}{
		{"UVBond", false, []string{self, "serve-nbd", "FILE", "SOCKET"}},
		{"nbdkit", false, []string{"nbdkit", "-f", "-U", "SOCKET", "file", "FILE"}},
		{"nbdkit LUKS", true, []string{"nbdkit", "-f", "-U", "SOCKET", "--filter=luks", "file", "FILE", "passphrase=bench"}},
		{"qemu-nbd", false, []string{"qemu-nbd", "-t", "-k", "SOCKET", "-f", "raw", "--cache=writeback", "FILE"}},
		{"qemu-nbd LUKS", true, []string{"qemu-nbd", "-t", "-k", "SOCKET", "--cache=writeback", "--object", "secret,id=s,file=" + secret,
			"--image-opts", "driver=luks,key-secret=s,file.driver=file,file.filename=FILE"}},
	} {
		path, err := dataFile(ctx, o, s.name, s.luks, secret)
		if err != nil {
			return peers, err
		}
		p, err := start(o, s.name, nil, replaceAll(s.argv, "FILE", path)...)
		if err != nil {
			return peers, err
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// dataFile makes what a peer serves: noise, so that no page is a hole.
func dataFile(ctx context.Context, o *options, name string, luks bool, secret string) (string, error) {
	path := filepath.Join(o.dir, fmt.Sprintf("%x.img", name))
	if luks {
		// LUKS1, which is all that the peers read. Not with qemu-img, which gives up
		// when the kernel's accounting of processor time is too coarse for it.
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return "", err
		}
		if err := os.Truncate(path, dataSize+luks1Offset); err != nil {
			return "", err
		}
		_, err := output(ctx, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512",
			"--hash", "sha256", "--pbkdf-force-iterations", "1000", "--key-file", secret, path)
		if err != nil {
			return "", err
		}
	}
	return path, fillNoise(path, dataSize)
}

// noise makes a file of size bytes of noise.
func noise(o *options, name string, size int64) (string, error) {
	path := filepath.Join(o.dir, name+".img")
	return path, fillNoise(path, size)
}

// fillNoise fills the last size bytes of a file with noise.
func fillNoise(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	at := max(0, end-size)
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	for i := int64(0); i < size; i += int64(len(noise)) {
		if _, err := f.WriteAt(noise, at+i); err != nil {
			return err
		}
	}
	return nil
}

// fioResult is what is used of fio's output.
type fioResult struct {
	Jobs []struct {
		Read, Write struct {
			IOPS     float64
			BWBytes  float64                `json:"bw_bytes"`
			TotalIOs float64                `json:"total_ios"`
			LatNS    struct{ Mean float64 } `json:"lat_ns"`
		}
	}
}

func (t *nbdTest) measure(ctx context.Context, o *options, p *peer) (sample, error) {
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	b, err := output(ctx, "fio", "--name=x", "--ioengine=nbd", "--uri=nbd+unix:///?socket="+p.socket, "--rw="+t.rw, "--bs="+t.bs,
		"--iodepth="+strconv.Itoa(t.depth), "--size="+strconv.Itoa(dataSize), "--time_based", fmt.Sprintf("--runtime=%gms", o.seconds*1000), "--output-format=json")
	if err != nil {
		return nil, err
	}
	after, err := p.cpu()
	if err != nil {
		return nil, err
	}
	if i := bytes.IndexByte(b, '{'); i > 0 {
		b = b[i:] // fio says things first
	}
	var f fioResult
	if err := json.Unmarshal(b, &f); err != nil || len(f.Jobs) != 1 {
		return nil, fmt.Errorf("fio's answer: %w", err)
	}
	d := f.Jobs[0].Read
	if d.TotalIOs == 0 {
		d = f.Jobs[0].Write
	}
	return sample{"IOPS": d.IOPS, "bandwidth": d.BWBytes, "latency": d.LatNS.Mean / 1e9, "CPU": (after - before) / d.TotalIOs}, nil
}
