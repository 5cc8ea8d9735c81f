// Command record asks the installed QEMU for its QMP schema and writes it where
// package recorded finds it.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
)

func main() {
	qemu := flag.String("qemu", "qemu-system-x86_64", "QEMU to ask")
	folder := flag.String("o", "qmp/schema/recorded", "folder to write to")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path, err := record(ctx, *qemu, *folder)
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
	fmt.Println("wrote", path)
}

func record(ctx context.Context, qemu, folder string) (string, error) {
	r, err := ask(ctx, qemu)
	if err != nil {
		return "", err
	}
	if _, err := schema.Parse(qemu, r.Schema); err != nil {
		return "", err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := z.Write(text); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	path := filepath.Join(folder, r.FileName())
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}

// ask runs a QEMU without a machine, with its monitor on a socket pair.
func ask(ctx context.Context, qemu string) (*recorded.Recording, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	defer ours.Close()
	cmd := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-machine", "none", "-display", "none", "-S",
		"-chardev", "socket,id=m,fd=3", "-mon", "chardev=m,mode=control")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	defer cmd.Wait()
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	client, err := qmp.NewClient(ctx, qmp.NewConn(c.(*net.UnixConn)))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	r := new(recorded.Recording)
	if err := client.Execute(ctx, "query-qmp-schema", nil, &r.Schema); err != nil {
		return nil, err
	}
	version := client.Greeting().QMP.Version
	r.Major, r.Minor, r.Micro, r.Package = version.QEMU.Major, version.QEMU.Minor, version.QEMU.Micro, version.Package
	return r, client.Execute(ctx, "quit", nil, nil)
}
