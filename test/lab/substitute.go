package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// registerOwn answers a tenant's registration with one that the operator made
// with keys of its own: for another VM (substitute) or under the tenant's VM id
// (swap-key).
func (o *operator) registerOwn(ctx context.Context, kind string, w http.ResponseWriter, body []byte) {
	var req struct {
		ID   bond.VMID `json:"id"`
		Name string    `json:"name"`
	}
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	if err := json.Unmarshal(body, &req); err != nil {
		answer(http.StatusBadRequest, map[string]any{"title": "Bad Request", "status": 400, "detail": err.Error()})
		return
	}
	id := req.ID
	if kind == "substitute" {
		id = bond.NewVMID()
	}
	confirmation, err := o.ownBond(ctx, id)
	if err != nil {
		answer(http.StatusBadGateway, map[string]any{"title": "Bad Gateway", "status": 502, "detail": err.Error()})
		return
	}
	answer(http.StatusOK, map[string]any{"id": req.ID.String(), "name": req.Name, "confirmation": confirmation})
}

// ownBond registers a VM whose keys the operator knows.
func (o *operator) ownBond(ctx context.Context, id bond.VMID) ([]byte, error) {
	c, err := qmp.Dial(ctx, o.conf.Gate)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var host qmp.QueryHostResult
	if err := c.Execute(ctx, qmp.CmdQueryHost, nil, &host); err != nil {
		return nil, err
	}
	pub, err := bond.ParseHostPublic(host.PublicKey)
	if err != nil {
		return nil, err
	}
	reg := &bond.Registration{
		Offered: host.Versions, Chosen: bond.Version, IssuedAt: time.Now().Unix(), Secret: bond.RandomSecret(32),
		Spec: bond.Spec{MemoryBytes: 256 << 20, VCPUs: 1, Firmware: "bios", Machine: "q35", Disks: []bond.Disk{{
			Name: "root", Bus: "virtio", Boot: true, Cipher: "aes-xts-plain64", SectorSize: 4096, DataOffset: 16 << 20, Length: 16 << 20,
			UUID:      "00000000-0000-4000-8000-000000000000",
			Digest:    bond.DiskDigest{Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Value: make([]byte, 32)},
			VolumeKey: bond.RandomSecret(64),
		}}},
	}
	sealed, _, err := bond.SealRegistration(pub, bond.NewTenantID(), id, reg)
	if err != nil {
		return nil, err
	}
	var res qmp.RegisterResult
	if err := c.Execute(ctx, qmp.CmdRegister, qmp.RegisterArgs{Registration: sealed}, &res); err != nil {
		return nil, err
	}
	return res.Confirmation, nil
}

// swapDisks exchanges the stored images of VMs: each gets the next one's.
func (o *operator) swapDisks() error {
	dir := filepath.Join(o.conf.DataDir, "images")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() > 1<<20 {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) < 2 {
		return fmt.Errorf("%d images in %s, two are needed", len(files), dir)
	}
	tmp := files[0] + ".swap"
	for _, step := range [][2]string{{files[0], tmp}, {files[1], files[0]}, {tmp, files[1]}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}
