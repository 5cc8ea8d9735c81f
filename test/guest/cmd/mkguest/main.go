// Command mkguest writes a bootable guest disk to a file.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/uvbond/uvbond/test/guest"
)

func main() {
	os.Exit(run())
}

func run() int {
	var o guest.Options
	kernel := flag.String("kernel", string(guest.Cloud), "`flavour` of the kernel: cloud or generic (for AHCI)")
	out := flag.String("o", "", "`file` to write; a name that ends in .qcow2 gets that format")
	script := flag.String("script", "", "`file` with a shell script that the guest runs")
	flag.StringVar(&o.Secret, "secret", "", "`text` that the guest prints")
	flag.StringVar(&o.Cmdline, "append", "", "`words` for the kernel's command line")
	flag.IntVar(&o.SizeMiB, "size", 0, "`MiB` of the whole disk (default what it needs)")
	flag.BoolVar(&o.Cryptsetup, "cryptsetup", false, "put cryptsetup and dm-crypt on the disk")
	flag.BoolVar(&o.Fio, "fio", false, "put fio on the disk")
	flag.BoolVar(&o.Verbose, "verbose", false, "show the kernel's log on the serial port")
	debian := flag.Bool("debian", false, "Debian 12 with cloud-init and sshd instead, for a first boot; needs root, and none of the other flags but -o")
	flag.Parse()
	if *out == "" || flag.NArg() != 0 {
		flag.Usage()
		return 2
	}
	o.Kernel, o.Log = guest.Kernel(*kernel), os.Stderr
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := write(ctx, o, *script, *out, *debian); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		return 1
	}
	return 0
}

func write(ctx context.Context, o guest.Options, script, out string, debian bool) error {
	if script != "" {
		text, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		o.Script = string(text)
	}
	build := func() (string, error) { return guest.Build(ctx, o) }
	if debian {
		build = func() (string, error) { return guest.Debian(ctx, guest.DebianOptions{Log: o.Log}) }
	}
	path, err := build()
	if err != nil {
		return err
	}
	if strings.HasSuffix(out, ".qcow2") {
		return guest.QCOW2(ctx, path, out)
	}
	return guest.Copy(ctx, path, out)
}
