package tenant

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/nearest"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
)

// BaseSource is a public image on the host from which the hypervisor makes a disk.
type BaseSource struct {
	Name   string   // as the host offers it
	SHA256 [32]byte // as its publisher says
	Size   uint64   // bytes of the disk; 0: of the image
	// Passphrase returns the passphrase of the new disk, which it never leaves this
	// machine with. The caller of Passphrase wipes the result.
	Passphrase func(context.Context) (*bond.Secret, error)
	Cost       luks.PBKDF // of trying a passphrase; zero: the default
}

// baseSector is the encryption sector of new disks, in bytes.
const baseSector = 4096

// Bases lists the base images that a host offers; unverified.
func (o *Owner) Bases(ctx context.Context, host string) ([]client.Base, error) {
	conn, err := o.Connect(ctx, host)
	if err != nil {
		return nil, err
	}
	list, err := conn.Bases(ctx)
	if err != nil {
		return nil, contact(ctx, host, err)
	}
	return list, nil
}

// whereDigests is where an owner gets a digest that the provider cannot have made up.
const whereDigests = "take it from where the image is published, beside its signature; the host's own word proves nothing"

// findBase asks the host how large an image is. That is its word only, and so is the
// digest: it serves to notice early what could not end well. A wrong size leads to a
// wrong digest, which the hypervisor finds.
func (o *Owner) findBase(ctx context.Context, conn *Conn, src *BaseSource) (*client.Base, error) {
	list, err := conn.Bases(ctx)
	if err != nil {
		return nil, contact(ctx, conn.Name, err)
	}
	i := slices.IndexFunc(list, func(b client.Base) bool { return b.Name == src.Name })
	if i < 0 {
		hint := "see: uvbond base list --host " + conn.Name
		var names []string
		for _, b := range list {
			names = append(names, b.Name)
		}
		if name := nearest.Name(src.Name, names); name != "" {
			hint = fmt.Sprintf("did you mean %q? %s", client.Printable(name), hint)
		}
		return nil, fail.New(fail.Other, hint, "%s offers no base image %q", conn.Name, src.Name)
	}
	b := &list[i]
	if b.Size <= 0 || b.Size > 1<<56 {
		return nil, fail.New(fail.Other, "tell the provider", "%s says that %s has %d bytes", conn.Name, src.Name, b.Size)
	}
	if want := hex.EncodeToString(src.SHA256[:]); !strings.EqualFold(b.SHA256, want) {
		return nil, fail.New(fail.Refused, "compare it with what its publisher says: another version? if yours is right, the host offers another image: ask the provider",
			"%s offers %s with another SHA-256 than yours: %s (unverified), not %s", conn.Name, src.Name, client.Printable(b.SHA256), want)
	}
	if src.Size != 0 && src.Size < uint64(b.Size) {
		return nil, fail.New(fail.Usage, "give a larger --disk-size, or none for the image's own", "%s has %d bytes, which a disk of %d cannot hold", src.Name, b.Size, src.Size)
	}
	return b, nil
}

// newDisk makes all that is secret of a disk, and what the hypervisor needs to make
// the rest. The passphrase stays here.
func newDisk(ctx context.Context, src DiskSource, size uint64, rep Reporter) (*bond.Disk, error) {
	pass, err := src.Base.Passphrase(ctx)
	if err != nil {
		return nil, err
	}
	rep.Begin("derive the key of "+src.Base.Name, 0)
	d, err := derive(ctx, pass, src.Base.Cost)
	rep.End()
	if err != nil {
		return nil, err
	}
	defer bond.Wipe(d.Key)
	key := bond.RandomSecret(64) // equal halves, which would be refused, do not come up
	digest, err := luks.NewDigest(key.Bytes())
	if err != nil {
		key.Wipe()
		return nil, err
	}
	length := max(size, src.Base.Size)
	return &bond.Disk{
		Bus: src.Bus, ReadOnly: src.ReadOnly, Discard: src.Discard,
		Cipher: bond.CipherAESXTS, SectorSize: baseSector, DataOffset: luks.DataOffset,
		Length: (length + baseSector - 1) / baseSector * baseSector, UUID: luks.NewUUID(),
		Digest:    bond.DiskDigest{Hash: digest.Hash, Iterations: digest.Iterations, Salt: digest.Salt, Value: digest.Value},
		VolumeKey: key,
		Base: &bond.Base{SHA256: src.Base.SHA256, Size: size, Keyslot: bond.Keyslot{
			Time: d.KDF.Time, Memory: d.KDF.MemoryKiB, CPUs: uint32(d.KDF.Lanes), Salt: d.KDF.Salt, Key: bond.NewSecret(d.Key)}},
	}, nil
}

// derive runs the key derivation, which cannot be stopped, beside the context.
func derive(ctx context.Context, pass *bond.Secret, cost luks.PBKDF) (*luks.Derived, error) {
	type result struct {
		d   *luks.Derived
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer pass.Wipe()
		d, err := luks.Derive(pass.Bytes(), cost)
		done <- result{d, err}
	}()
	select {
	case r := <-done:
		return r.d, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// blank has the server make the image of a disk that is made from a base image.
func (o *Owner) blank(ctx context.Context, conn *Conn, vm string, d *bond.Disk, src *BaseSource) (*client.Image, error) {
	size := int64(d.DataOffset + d.Length)
	img, err := conn.NewBlank(ctx, src.Name, vm+"-"+d.Name, size)
	if err != nil {
		return nil, contact(ctx, conn.Name, err)
	}
	if img.State != client.ImageReady || img.Size != size {
		return nil, fail.New(fail.Other, "tell the provider", "%s made an image of %d bytes that is %s, for a disk that needs %d", conn.Name, img.Size, client.Printable(img.State), size)
	}
	return img, nil
}
