package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/image"
)

func (a *app) diskCommand() *cobra.Command {
	c := &cobra.Command{Use: "disk", Short: "Encrypt disks and store them on hosts"}
	group(c)
	c.AddCommand(a.diskEncrypt(), a.diskInfo(), a.diskPush(), a.diskList(), a.diskGrow(), a.diskRemove())
	return c
}

type encryptFlags struct {
	key                    keyFlags
	sector, keyBits        int
	format, label          string
	force                  bool
	pbkdf                  string
	pbkdfMemory, pbkdfTime uint32
	pbkdfLanes             uint8
	pbkdfIterations        uint32
}

func addKeyFlags(c *cobra.Command, k *keyFlags) {
	c.Flags().StringVar(&k.passphraseFile, "passphrase-file", "", "file with the passphrase (a final line end does not count)")
	c.Flags().StringVar(&k.keyFile, "key-file", "", "file whose bytes are the passphrase, as with cryptsetup --key-file")
	c.MarkFlagsMutuallyExclusive("passphrase-file", "key-file")
}

func (a *app) diskEncrypt() *cobra.Command {
	var f encryptFlags
	c := &cobra.Command{
		Use:   "encrypt IN OUT",
		Short: "Make an encrypted disk out of a raw or qcow2 image",
		Long: `Writes OUT as a LUKS2 container (aes-xts-plain64) that cryptsetup opens too. IN is
never modified. Every sector is written, so that nobody sees which are unused.
An interrupted encryption leaves nothing under the name OUT.

Disks made by "cryptsetup luksFormat --type luks2" work as they are.`,
		Example: `  uvbond disk encrypt debian.qcow2 web1.luks
  uvbond disk encrypt disk.raw web1.luks --passphrase-file ~/web1.pass --sector-size 512`,
		Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error { return a.runEncrypt(c.Context(), args[0], args[1], f) },
	}
	addKeyFlags(c, &f.key)
	c.Flags().IntVar(&f.sector, "sector-size", 4096, "encryption sector in bytes: 512 or 4096")
	c.Flags().IntVar(&f.keyBits, "cipher-key-size", 512, "volume key in bits: 512 (AES-256) or 256 (AES-128)")
	c.Flags().StringVar(&f.format, "format", image.Auto, "format of IN: raw, qcow2 or auto")
	c.Flags().StringVar(&f.label, "label", "", "label in the LUKS2 header (not secret)")
	c.Flags().BoolVar(&f.force, "force", false, "replace OUT when it exists")
	c.Flags().StringVar(&f.pbkdf, "pbkdf", "argon2id", "key derivation: argon2id, argon2i or pbkdf2")
	c.Flags().Uint32Var(&f.pbkdfMemory, "pbkdf-memory", 0, "memory of argon2 in KiB (0: the default)")
	c.Flags().Uint32Var(&f.pbkdfTime, "pbkdf-time", 0, "passes of argon2 (0: the default)")
	c.Flags().Uint8Var(&f.pbkdfLanes, "pbkdf-parallel", 0, "lanes of argon2 (0: the default)")
	c.Flags().Uint32Var(&f.pbkdfIterations, "pbkdf-iterations", 0, "iterations of pbkdf2 (0: the default)")
	choice(c, "sector-size", "512", "4096")
	choice(c, "cipher-key-size", "512", "256")
	choice(c, "format", image.Auto, image.Raw, image.Qcow2)
	choice(c, "pbkdf", "argon2id", "argon2i", "pbkdf2")
	return c
}

func (f *encryptFlags) check() error {
	switch {
	case f.sector != 512 && f.sector != 4096:
		return fail.New(fail.Usage, "--sector-size 4096, or 512 for a disk that something expects so", "a sector size of %d is not possible", f.sector)
	case f.keyBits != 512 && f.keyBits != 256:
		return fail.New(fail.Usage, "--cipher-key-size 512 or 256", "a volume key of %d bits is not possible", f.keyBits)
	case f.format != image.Auto && f.format != image.Raw && f.format != image.Qcow2:
		return fail.New(fail.Usage, "--format raw, --format qcow2 or --format auto", "%q is not a format", f.format)
	case f.pbkdf != "argon2id" && f.pbkdf != "argon2i" && f.pbkdf != "pbkdf2":
		return fail.New(fail.Usage, "--pbkdf argon2id, argon2i or pbkdf2", "%q is not a key derivation", f.pbkdf)
	}
	return nil
}

// cost starts from the default of the kind and changes what was given.
func (f *encryptFlags) cost() luks.PBKDF {
	p := luks.DefaultPBKDF()
	if f.pbkdf != p.Type {
		p.Type = f.pbkdf
	}
	if f.pbkdf == "pbkdf2" {
		p = luks.PBKDF{Type: "pbkdf2", Iterations: 2_000_000}
	}
	if f.pbkdfMemory > 0 {
		p.MemoryKiB = f.pbkdfMemory
	}
	if f.pbkdfTime > 0 {
		p.Time = f.pbkdfTime
	}
	if f.pbkdfLanes > 0 {
		p.Lanes = f.pbkdfLanes
	}
	if f.pbkdfIterations > 0 {
		p.Iterations = f.pbkdfIterations
	}
	return p
}

func (a *app) runEncrypt(ctx context.Context, in, out string, f encryptFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	src, err := image.OpenSource(in, f.format)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := image.CheckOutput(src, out, f.force); err != nil {
		return err
	}
	pass, err := a.forNew(ctx, &f.key)
	if err != nil {
		return err
	}
	defer pass.Wipe()
	rep := a.reporter()
	rep.Begin("encrypt "+filepath.Base(in), src.Size)
	defer rep.End()
	h, err := image.Encrypt(ctx, src, out, image.Options{
		Passphrase: pass, KeySize: f.keyBits / 8, SectorSize: f.sector, Label: f.label, Cost: f.cost(), Force: f.force,
	}, rep.Update)
	rep.End()
	if err != nil {
		return err
	}
	view := headerJSON(out, h)
	return a.print(view, func(w io.Writer) {
		fmt.Fprintf(w, "encrypted %s (%s, %s) as %s\n", in, src.Format, bytesText(uint64(src.Size)), out)
	})
}

type headerView struct {
	File       string     `json:"file"`
	UUID       string     `json:"uuid"`
	Label      string     `json:"label,omitempty"`
	Cipher     string     `json:"cipher"`
	KeyBits    int        `json:"key_bits"`
	SectorSize uint32     `json:"sector_size"`
	DataOffset uint64     `json:"data_offset"`
	Length     uint64     `json:"length"`
	IVTweak    uint64     `json:"iv_tweak"`
	Keyslots   []slotView `json:"keyslots"`
}

type slotView struct {
	ID         int    `json:"id"`
	KDF        string `json:"kdf"`
	MemoryKiB  uint32 `json:"memory_kib,omitempty"`
	Time       uint32 `json:"time,omitempty"`
	Lanes      uint8  `json:"lanes,omitempty"`
	Iterations uint32 `json:"iterations,omitempty"`
}

func headerJSON(path string, h *luks.Header) headerView {
	v := headerView{
		File: path, UUID: h.UUID, Label: h.Label, Cipher: h.Segment.Cipher, KeyBits: h.Segment.KeyBytes * 8,
		SectorSize: h.Segment.SectorSize, DataOffset: h.Segment.Offset, Length: h.Segment.Length, IVTweak: h.Segment.IVTweak,
	}
	for _, k := range h.Keyslots {
		v.Keyslots = append(v.Keyslots, slotView{k.ID, k.KDF.Type, k.KDF.MemoryKiB, k.KDF.Time, k.KDF.Lanes, k.KDF.Iterations})
	}
	return v
}

func (a *app) diskInfo() *cobra.Command {
	return &cobra.Command{
		Use: "info FILE", Short: "Show how a disk is encrypted",
		Example: "  uvbond disk info web1.luks",
		Args:    exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := image.Inspect(args[0])
			if err != nil {
				return err
			}
			v := headerJSON(args[0], h)
			return a.print(v, func(w io.Writer) {
				pairs(w, "file", v.File, "uuid", v.UUID, "label", client.Printable(v.Label), "cipher", fmt.Sprintf("%s, %d-bit key", v.Cipher, v.KeyBits),
					"sector", fmt.Sprintf("%d bytes", v.SectorSize), "data", fmt.Sprintf("%s from byte %d", bytesText(v.Length), v.DataOffset))
				for _, k := range v.Keyslots {
					fmt.Fprintf(w, "keyslot %d: %s\n", k.ID, k.text())
				}
			})
		},
	}
}

func (k slotView) text() string {
	if k.KDF == "pbkdf2" {
		return "pbkdf2, " + strconv.FormatUint(uint64(k.Iterations), 10) + " iterations"
	}
	return fmt.Sprintf("%s, %s, %d passes, %d lanes", k.KDF, bytesText(uint64(k.MemoryKiB)<<10), k.Time, k.Lanes)
}

func (a *app) diskPush() *cobra.Command {
	var host, name string
	c := &cobra.Command{
		Use: "push FILE --host HOST", Short: "Store an encrypted disk on a host",
		Long: `Uploads FILE and has its SHA-256 checked. An upload that breaks off goes on by itself,
or when the command is run again, from where it was. A file that is not encrypted
is refused.`,
		Example: "  uvbond disk push web1.luks --host lab",
		Args:    exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if name == "" {
				name = filepath.Base(args[0])
			}
			o, err := a.owner()
			if err != nil {
				return err
			}
			if _, err := image.Inspect(args[0]); err != nil {
				return err
			}
			conn, err := o.Connect(c.Context(), host)
			if err != nil {
				return err
			}
			img, err := o.Push(c.Context(), conn, args[0], name, a.reporter())
			if err != nil {
				return err
			}
			return a.print(img, func(w io.Writer) {
				fmt.Fprintf(w, "stored %s on %s as image %s (%s)\n", args[0], host, client.Printable(img.ID), bytesText(uint64(img.Size)))
			})
		},
	}
	a.hostFlag(c, &host)
	c.Flags().StringVar(&name, "name", "", "name of the image (default: the file's)")
	return c
}

func (a *app) diskList() *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: "list --host HOST", Short: "List the images stored on a host", Aliases: []string{"ls"},
		Long:    "Lists what the server says that it stores for you. This is not verified.",
		Example: "  uvbond disk list --host lab",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			list, err := o.Images(c.Context(), host)
			if err != nil {
				return err
			}
			rows, used := [][]string{}, vmsByID(o)
			for _, i := range list {
				if used[i.VM] == "" && i.VM != "" {
					used[i.VM] = client.Printable(i.VM)
				}
				state := client.Printable(i.State)
				if i.State == client.ImageUploading && i.Size > 0 {
					state += fmt.Sprintf(" (%d%%)", i.Offset*100/i.Size)
				}
				rows = append(rows, []string{client.Printable(i.ID), client.Printable(i.Name), bytesText(uint64(max(i.Size, 0))), state, dash(used[i.VM])})
			}
			if list == nil {
				list = []client.Image{}
			}
			return a.print(map[string]any{"images": list, "verified": false}, func(w io.Writer) { table(w, []string{"ID", "NAME", "SIZE", "STATE (unverified)", "DISK OF"}, rows) })
		},
	}
	a.hostFlag(c, &host)
	return c
}

// vmsByID returns the local names of the VMs.
func vmsByID(o *tenant.Owner) map[string]string {
	found := map[string]string{}
	names, _ := o.Store.VMs() // for people only: without them the ids are shown
	for _, n := range names {
		if vm, err := o.Store.VM(n); err == nil {
			found[vm.ID] = n
		}
	}
	return found
}

func (a *app) diskRemove() *cobra.Command {
	var host string
	var yes bool
	c := &cobra.Command{
		Use: "remove IMAGE --host HOST", Short: "Remove a stored image", Aliases: []string{"rm"},
		Long:    "Removes an image, named by its id or by its name. The server's copy is gone then, with\nwhat a VM wrote to it; the local file stays. The disk of a VM is removed after the VM.",
		Example: "  uvbond disk remove web1.luks --host lab",
		Args:    exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			img, err := o.FindImage(c.Context(), host, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := a.confirm(c.Context(), fmt.Sprintf("Remove the image %s (%s) from %s?", client.Printable(img.Name), bytesText(uint64(max(img.Size, 0))), host), "say so with --yes"); err != nil {
					return err
				}
			}
			if err := o.RemoveImage(c.Context(), host, img.ID); err != nil {
				return err
			}
			return a.print(map[string]string{"removed": img.ID}, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", client.Printable(img.Name)) })
		},
	}
	a.hostFlag(c, &host)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}
