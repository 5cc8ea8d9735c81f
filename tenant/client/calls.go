package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Host asks for the hypervisor's identity and the host's public facts.
func (c *Client) Host(ctx context.Context) (*Host, error) {
	out := new(Host)
	return out, c.get(ctx, "/v1/host", out)
}

// Images lists the stored images of this tenant.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var out struct {
		Images []Image `json:"images"`
	}
	err := c.get(ctx, "/v1/images", &out)
	return out.Images, err
}

// Image returns the record of one image.
func (c *Client) Image(ctx context.Context, id string) (*Image, error) {
	out := new(Image)
	return out, c.get(ctx, "/v1/images/"+url.PathEscape(id), out)
}

// RemoveImage deletes an image.
func (c *Client) RemoveImage(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: "/v1/images/" + url.PathEscape(id), most: maxJSON, timeout: requestTimeout}, nil)
}

// NewImage announces an upload. The same name, size and SHA-256 (hex, of the
// whole file) announced again return the existing record, so that an upload
// that broke off goes on where it was.
func (c *Client) NewImage(ctx context.Context, name string, size int64, sum string) (*Image, error) {
	out := new(Image)
	announced := struct {
		Name   string `json:"name"`
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
	}{name, size, sum}
	err := c.post(ctx, "/v1/images", announced, out, maxJSON, requestTimeout)
	return out, err
}

// Bases lists the public base images.
func (c *Client) Bases(ctx context.Context) ([]Base, error) {
	var out struct {
		Bases []Base `json:"bases"`
	}
	err := c.get(ctx, "/v1/bases", &out)
	return out.Bases, err
}

// NewBlank has the server make an image of size bytes for a disk that is made from a
// base image. The same again returns the one that no VM has yet.
func (c *Client) NewBlank(ctx context.Context, base, name string, size int64) (*Image, error) {
	out := new(Image)
	wanted := struct {
		Name string `json:"name"`
		Size int64  `json:"size"`
	}{name, size}
	err := c.post(ctx, "/v1/bases/"+url.PathEscape(base)+"/images", wanted, out, maxJSON, requestTimeout)
	return out, err
}

// PutImage stores one chunk at an offset.
func (c *Client) PutImage(ctx context.Context, id string, offset int64, chunk []byte) (*Image, error) {
	out := new(Image)
	err := c.call(ctx, request{
		method:  http.MethodPut,
		path:    "/v1/images/" + url.PathEscape(id) + "/data?offset=" + strconv.FormatInt(offset, 10),
		body:    bytes.NewReader(chunk),
		length:  int64(len(chunk)),
		kind:    "application/octet-stream",
		digest:  digestHeader(sha256.Sum256(chunk)),
		most:    maxJSON,
		timeout: uploadTimeout,
	}, out)
	return out, err
}

// CreateVM relays a registration. It is sent once and never repeated: a
// registration is single use.
func (c *Client) CreateVM(ctx context.Context, vm CreateVM) (*VM, error) {
	out := new(VM)
	return out, c.post(ctx, "/v1/vms", vm, out, maxJSON, commandTimeout)
}

// VMs lists the server's view of this tenant's VMs.
func (c *Client) VMs(ctx context.Context) ([]VM, error) {
	var out struct {
		VMs []VM `json:"vms"`
	}
	err := c.get(ctx, "/v1/vms", &out)
	return out.VMs, err
}

// VM returns the server's view of one VM.
func (c *Client) VM(ctx context.Context, id string) (*VM, error) {
	out := new(VM)
	return out, c.get(ctx, "/v1/vms/"+url.PathEscape(id), out)
}

// Disks asks for the limits and statistics of a VM's disks, the server's word.
func (c *Client) Disks(ctx context.Context, id string) ([]qmp.DiskState, error) {
	var out struct {
		Disks []qmp.DiskState `json:"disks"`
	}
	err := c.get(ctx, "/v1/vms/"+url.PathEscape(id)+"/disks", &out)
	return out.Disks, err
}

// Command relays a ticket. It is sent once and never repeated: a ticket is
// single use, and a second answer would only say so.
func (c *Client) Command(ctx context.Context, id string, cmd Command) (*Outcome, error) {
	out := new(Outcome)
	return out, c.post(ctx, "/v1/vms/"+url.PathEscape(id)+"/commands", cmd, out, maxCommand, commandTimeout)
}

// Delegated relays a delegate's ticket, like Command.
func (c *Client) Delegated(ctx context.Context, id string, cmd Command) (*Outcome, error) {
	out := new(Outcome)
	return out, c.post(ctx, "/v1/vms/"+url.PathEscape(id)+"/delegated", cmd, out, maxCommand, commandTimeout)
}

func (c *Client) post(ctx context.Context, path string, in, out any, most int64, timeout time.Duration) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodPost, path: path, body: bytes.NewReader(body), kind: "application/json", most: most, timeout: timeout}, out)
}

// get reads; it may be repeated, so a dropped connection is tried again twice.
func (c *Client) get(ctx context.Context, path string, out any) error {
	var err error
	for attempt := range 3 {
		if attempt > 0 {
			if err := pause(ctx, time.Duration(attempt)*200*time.Millisecond); err != nil {
				return err
			}
		}
		err = c.call(ctx, request{method: http.MethodGet, path: path, most: maxJSON, timeout: requestTimeout}, out)
		var sent *SentError
		if err == nil || !errors.As(err, &sent) {
			return err
		}
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
