package tenant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Push stores an encrypted disk on a host. A plaintext file is refused: the
// server must never see one.
func (o *Owner) Push(ctx context.Context, conn *Conn, path, name string, rep Reporter) (*client.Image, error) {
	f, size, err := openDisk(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := luks.ReadHeader(f, size); err != nil {
		return nil, notEncrypted(path, err)
	}
	return o.pushFile(ctx, conn, f, size, name, rep)
}

func (o *Owner) pushFile(ctx context.Context, conn *Conn, f *os.File, size int64, name string, rep Reporter) (*client.Image, error) {
	sum, err := o.digest(ctx, f, size, rep)
	if err != nil {
		return nil, err
	}
	_, before := o.Store.Digest(f)
	rep.Begin("push "+name, size)
	defer rep.End()
	img, err := conn.Push(ctx, client.Upload{
		Name: name, Size: size, SHA256: sum, Data: f,
		Progress: rep.Update,
		Retry: func(err error, wait time.Duration) {
			rep.Note(fmt.Sprintf("the connection to %s broke (%v); trying again in %s", conn.Name, err, wait.Round(100*time.Millisecond)))
		},
	})
	if err != nil {
		return nil, pushFailed(ctx, conn.Name, f.Name(), err)
	}
	if _, after := o.Store.Digest(f); after != before {
		return nil, fail.New(fail.Other, "push it again when nothing writes to it", "%s changed while it was being sent", f.Name())
	}
	if img.Size != size || img.SHA256 != "" && img.SHA256 != sum {
		return nil, fail.New(fail.Forged, "tell the provider; remove the image and push it again", "%s says that it stored another file than the one sent", conn.Name)
	}
	return img, nil
}

func pushFailed(ctx context.Context, host, path string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w; what arrived on %s is kept: run the same command again to go on", context.Cause(ctx), host)
	}
	var sent *client.SentError
	var api *client.APIError
	if errors.As(err, &sent) || errors.As(err, &api) && api.Status >= 500 && api.Status != 507 {
		return fail.Wrap(err, fail.Connection, "what arrived is kept: run the same command again to go on", "the upload of %s to %s broke off", path, host)
	}
	return contact(ctx, host, err)
}

// openDisk opens a local file or block device for reading.
func openDisk(path string) (*os.File, int64, error) {
	// A pipe into which nobody writes must not hold up anybody: it is refused below.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fail.Wrap(err, fail.Other, "check the path", "cannot open the disk")
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if st.IsDir() {
		f.Close()
		return nil, 0, fail.New(fail.Other, "give the file of the encrypted disk", "%s is a folder", path)
	}
	size, err := f.Seek(0, io.SeekEnd) // a block device has no size in its stat
	if err != nil {
		f.Close()
		return nil, 0, fail.Wrap(err, fail.Other, "give a regular file", "cannot tell the size of %s", path)
	}
	return f, size, nil
}

func notEncrypted(path string, err error) error {
	hint := "encrypt it first: uvbond disk encrypt " + path + " " + path + ".luks"
	var refused *luks.RefusedError
	if errors.As(err, &refused) && refused.Field != "magic" {
		// It is some LUKS container, or none at all: encrypting it would not help.
		hint = "look at it with: cryptsetup luksDump " + path + "; a new one is made by: uvbond disk encrypt IN OUT"
	}
	return fail.Wrap(err, fail.Other, hint, "%s cannot be used as an encrypted disk", path)
}

// digest returns the SHA-256 (hex) of a file, from the cache when it did not
// change.
func (o *Owner) digest(ctx context.Context, f *os.File, size int64, rep Reporter) (string, error) {
	known, key := o.Store.Digest(f)
	if known != "" {
		return known, nil
	}
	rep.Begin("hash "+f.Name(), size)
	defer rep.End()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		if err := context.Cause(ctx); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 && err != nil {
			return "", fail.Wrap(err, fail.Other, "the file may be on a broken disk, or it shrank", "cannot read %s", f.Name())
		}
		h.Write(buf[:n])
		off += int64(n)
		rep.Update(off)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if key == "" {
		return sum, nil
	}
	return sum, o.Store.PutDigest(ctx, f, key, sum)
}

// Images lists what the server says that it stores; unverified.
func (o *Owner) Images(ctx context.Context, host string) ([]client.Image, error) {
	conn, err := o.Connect(ctx, host)
	if err != nil {
		return nil, err
	}
	list, err := conn.Images(ctx)
	if err != nil {
		return nil, contact(ctx, host, err)
	}
	return list, nil
}

// FindImage returns the one image with that id or name.
func (o *Owner) FindImage(ctx context.Context, host, which string) (*client.Image, error) {
	list, err := o.Images(ctx, host)
	if err != nil {
		return nil, err
	}
	var found []client.Image
	for _, i := range list {
		if i.ID == which {
			return &i, nil
		}
		if i.Name == which {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 1:
		return &found[0], nil
	case 0:
		return nil, fail.New(fail.Other, "see: uvbond disk list --host "+host, "%s has no image %q", host, which)
	default:
		return nil, fail.New(fail.Other, "give its id: uvbond disk list --host "+host, "%s has %d images named %q", host, len(found), which)
	}
}

// RemoveImage deletes a stored image.
func (o *Owner) RemoveImage(ctx context.Context, host, id string) error {
	conn, err := o.Connect(ctx, host)
	if err != nil {
		return err
	}
	if err := conn.RemoveImage(ctx, id); err != nil {
		return contact(ctx, host, err)
	}
	return nil
}
