package nbd

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The tests in this file use the clients that people have.

func TestNbdinfo(t *testing.T) {
	path, _ := serve(t, &Server{Exports: []Export{
		{Name: "root", Device: newMemory(t, 1<<20).Device},
		{Name: "data", Device: newMemory(t, 12288, readOnly).Device},
	}})
	var info struct {
		Protocol   string
		Structured bool `json:"structured"`
		Exports    []map[string]any
	}
	out := run(t, "nbdinfo", "libnbd-bin", "--json", "--list", "nbd+unix:///?socket="+path)
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 2 {
		t.Fatalf("%s", out)
	}
	for i, want := range []map[string]any{
		{"export-name": "root", "export-size": 1048576., "is_read_only": false, "can_trim": true, "can_multi_conn": true, "can_fua": true,
			"can_flush": true, "can_zero": true, "can_fast_zero": true, "can_df": true, "can_cache": false,
			"block_size_minimum": 1., "block_size_preferred": 4096., "block_size_maximum": float64(MaxRequest)},
		{"export-name": "data", "export-size": 12288., "is_read_only": true, "can_trim": false, "can_multi_conn": true, "can_flush": true, "can_zero": false},
	} {
		for k, v := range want {
			if got := info.Exports[i][k]; got != v {
				t.Errorf("%v: %s is %v, want %v", want["export-name"], k, got, v)
			}
		}
	}
	if out := run(t, "nbdinfo", "libnbd-bin", "--size", "nbd+unix:///root?socket="+path); strings.TrimSpace(out) != "1048576" {
		t.Fatal(out)
	}
}

func TestNbdcopy(t *testing.T) {
	const size = 24<<20 + 512
	m := newMemory(t, size)
	path, _ := serve(t, &Server{Exports: []Export{{Name: "", Device: m.Device}}})
	data := make([]byte, size)
	rand.Read(data)
	clear(data[4<<20 : 12<<20]) // nbdcopy writes zeroes by their own command
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	uri := "nbd+unix:///?socket=" + path
	run(t, "nbdcopy", "libnbd-bin", "--connections=4", "--requests=16", "--flush", in, uri)
	if !bytes.Equal(m.bytes(t), data) {
		t.Fatal("what nbdcopy wrote differs")
	}
	if m.flushes.Load() == 0 {
		t.Fatal("no flush arrived")
	}
	run(t, "nbdcopy", "libnbd-bin", "--connections=4", "--request-size=4194304", uri, out)
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("what nbdcopy read differs: %v", err)
	}
}

func TestQemuImg(t *testing.T) {
	const size = 16 << 20
	m := newMemory(t, size)
	path, _ := serve(t, &Server{Exports: []Export{{Name: "x", Device: m.Device}}})
	data := make([]byte, size)
	rand.Read(data[:size/2])
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	uri := "nbd+unix:///x?socket=" + path
	noise := make([]byte, size)
	rand.Read(noise)
	m.set(t, noise, 0)
	run(t, "qemu-img", "qemu-utils", "convert", "-n", "-f", "raw", "-O", "raw", in, uri)
	run(t, "qemu-img", "qemu-utils", "compare", "-f", "raw", "-F", "raw", in, uri)
	if !bytes.Equal(m.bytes(t), data) {
		t.Fatal("content differs")
	}
	out := filepath.Join(t.TempDir(), "out")
	run(t, "qemu-img", "qemu-utils", "convert", "-f", "raw", "-O", "raw", uri, out)
	run(t, "qemu-img", "qemu-utils", "compare", "-f", "raw", "-F", "raw", in, out)
}

func TestQemuIO(t *testing.T) {
	m := newMemory(t, 48<<20)
	path, _ := serve(t, &Server{Exports: []Export{{Name: "x", Device: m.Device}}})
	args := []string{"-d", "unmap", "-f", "raw", "nbd+unix:///x?socket=" + path}
	for _, c := range []string{
		"write -P 1 0 40M", "read -P 1 0 40M", "write -f -P 2 12345 7", "read -P 2 12345 7",
		"write -z 1M 1M", "read -P 0 1M 1M", "discard 2M 1M", "aio_write -P 3 4M 1M", "aio_write -P 4 5M 1M", "aio_flush",
		"read -P 3 4M 1M", "read -P 4 5M 1M", "flush",
	} {
		args = append(args, "-c", c)
	}
	out := run(t, "qemu-io", "qemu-utils", args...)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatal(out)
	}
	if m.flushes.Load() == 0 || m.trims.Load() == 0 {
		t.Fatalf("%d flushes, %d trims", m.flushes.Load(), m.trims.Load())
	}
	m.failWith(errTest)
	// With structured replies (QEMU) and without (an old client: see the wire tests).
	cmd := exec.Command(tool(t, "qemu-io", "qemu-utils"), "-r", "-f", "raw", "nbd+unix:///x?socket="+path, "-c", "read 0 4k")
	if b, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(b, []byte("Input/output error")) {
		t.Fatalf("%v: %s", err, b)
	}
}

func TestFio(t *testing.T) {
	m := newMemory(t, 16<<20)
	path, _ := serve(t, &Server{Exports: []Export{{Name: "", Device: m.Device}}})
	out := run(t, "fio", "fio", "--name=v", "--ioengine=nbd", "--uri=nbd+unix:///?socket="+path, "--rw=randrw", "--bsrange=512-128k",
		"--bs_unaligned=1", "--size=16M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=64", "--randseed=7")
	if !strings.Contains(out, "err= 0") {
		t.Fatal(out)
	}
}
