package guest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout of the disk: an MBR; partition 1 is FAT, active for the BIOS's boot
// code and of the EFI type for UEFI, and holds both boot loaders, the kernel and
// the initramfs; partition 2 is the ext4 root.
const (
	mib      = 1 << 20
	fatStart = 1 // MiB
	// rootSpare is free room in the root file system, journal included, in MiB.
	rootSpare = 12
)

// Paths of the boot loaders' files in Debian.
const (
	mbrCode     = "/usr/lib/syslinux/mbr/mbr.bin"
	systemdBoot = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

func (b *builder) cmdline() string {
	// no_timer_check and random.trust_cpu spare waiting where the CPU is emulated.
	words := []string{"console=tty0", "console=ttyS0,115200n8", "panic=5", "no_timer_check", "random.trust_cpu=on", "mitigations=off"}
	if !b.Verbose {
		words = append(words, "quiet", "loglevel=3")
	}
	if b.Cmdline != "" {
		words = append(words, b.Cmdline)
	}
	return strings.Join(words, " ")
}

// assemble makes the disk; the root file system has the content of root and is ext
// MiB long, or as long as the disk's size asks for.
func (b *builder) assemble(ctx context.Context, boot *bootFiles, root string, ext int64) (string, error) {
	fi, err := os.Stat(boot.kernel)
	if err != nil {
		return "", err
	}
	fat := (fi.Size()+int64(len(boot.initramfs)))/mib + 3
	total := fatStart + fat + ext
	if want := int64(b.SizeMiB); want != 0 {
		if want < total {
			return "", fmt.Errorf("%d MiB are too small: the content needs %d MiB", want, total)
		}
		ext += want - total
		total = want
	}
	disk := filepath.Join(b.work, "disk.raw")
	if err := partition(ctx, disk, fat, total); err != nil {
		return "", err
	}
	if err := b.fillFAT(ctx, disk, fat, boot.kernel, boot.initramfs); err != nil {
		return "", err
	}
	return disk, fillRoot(ctx, disk, fatStart+fat, ext, root)
}

func partition(ctx context.Context, disk string, fat, total int64) error {
	f, err := os.OpenFile(disk, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(total * mib); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, lookTool("sfdisk"), "--quiet", "--no-reread", "--no-tell-kernel", disk)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: dos\nstart=%dMiB, size=%dMiB, type=ef, bootable\nstart=%dMiB, type=83\n",
		fatStart, fat, fatStart+fat))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sfdisk: %w: %s", err, out)
	}
	code, err := os.ReadFile(mbrCode)
	if err != nil {
		return fmt.Errorf("%w; hack/install-deps.sh installs syslinux-common", err)
	}
	if len(code) > 440 {
		return fmt.Errorf("%s is %d bytes long: no boot code for an MBR", mbrCode, len(code))
	}
	_, err = f.WriteAt(code, 0)
	return err
}

func (b *builder) fillFAT(ctx context.Context, disk string, fat int64, kernel string, initramfs []byte) error {
	loader, err := b.fromPackage(ctx, "systemd-boot-efi", systemdBoot)
	if err != nil {
		return err
	}
	staged := func(name, text string) string {
		p := filepath.Join(b.work, name)
		if err == nil {
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		return p
	}
	initrd := staged("initrd.gz", string(initramfs))
	bios := staged("syslinux.cfg", "SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nTIMEOUT 1\nLABEL guest\n  LINUX /vmlinuz\n  INITRD /initrd.gz\n  APPEND "+b.cmdline()+"\n")
	efi := staged("loader.conf", "timeout 0\ndefault guest.conf\n")
	entry := staged("guest.conf", "title guest\nlinux /vmlinuz\ninitrd /initrd.gz\noptions "+b.cmdline()+"\n")
	if err != nil {
		return err
	}
	image := disk + "@@" + strconv.Itoa(fatStart) + "M"
	// Large clusters: a BIOS that reads by programmed I/O pays for each request.
	steps := [][]string{
		{"mformat", "-i", image, "-T", strconv.FormatInt(fat*mib/512, 10), "-h", "64", "-s", "32", "-c", "16", "-v", "UVBOND", "-H", strconv.Itoa(fatStart * mib / 512), "::"},
		{"mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"},
		{"mcopy", "-i", image, kernel, "::/vmlinuz"},
		{"mcopy", "-i", image, initrd, "::/initrd.gz"},
		{"mcopy", "-i", image, bios, "::/syslinux.cfg"},
		{"mcopy", "-i", image, loader, "::/EFI/BOOT/BOOTX64.EFI"},
		{"mcopy", "-i", image, efi, "::/loader/loader.conf"},
		{"mcopy", "-i", image, entry, "::/loader/entries/guest.conf"},
		{"syslinux", "--install", "-t", strconv.Itoa(fatStart * mib), disk},
	}
	for _, s := range steps {
		if err := run(ctx, s[0], s[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func fillRoot(ctx context.Context, disk string, start, size int64, dir string) error {
	return run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "uvbond-root", "-J", "size=4",
		"-E", fmt.Sprintf("offset=%d,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", start*mib),
		"-d", dir, disk, strconv.FormatInt(size*mib/4096, 10))
}
