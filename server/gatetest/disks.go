package gatetest

import (
	"encoding/json"

	"github.com/uvbond/uvbond/qmp"
)

// disks answers for one disk, root, of a VM that runs.
func (g *Gate) disks(c *Call) (any, error) {
	v := g.vms[text(c, "vm")]
	if v == nil {
		return nil, qmp.Errorf(qmp.ClassDeviceNotFound, "no VM %s", text(c, "vm"))
	}
	if v.State == qmp.StateStopped {
		return qmp.QueryDisksResult{Disks: []qmp.DiskState{}}, nil
	}
	d := qmp.DiskState{Name: "root", FrontEnd: "nbd", Size: 1 << 30, Stats: &qmp.DiskStats{
		Kinds:      []qmp.KindStats{{Kind: "read", Count: 3, Errors: 1, Bytes: 8192, Nanoseconds: 2_500_000_000, Latency: []uint64{0, 1, 1, 1}}},
		Depth:      []uint64{1, 2},
		Enciphered: 8192, Pending: 1, Connections: 2, Accepted: 5, Refused: 4,
		Storage: &qmp.StorageStats{Connections: 2, Lost: 7},
	}}
	for _, l := range v.Limits {
		d.Limits = qmp.DiskLimits{IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst}
	}
	return qmp.QueryDisksResult{Disks: []qmp.DiskState{d}}, nil
}

func (g *Gate) limit(c *Call) (any, error) {
	v := g.vms[text(c, "vm")]
	if v == nil || v.State == qmp.StateStopped || text(c, "disk") != "root" {
		return nil, qmp.Errorf(qmp.ClassInvalid, "no such VM or disk runs")
	}
	number := func(key string) uint64 {
		n, _ := c.Arguments[key].(json.Number)
		i, _ := n.Int64()
		return uint64(i)
	}
	v.Limits = []qmp.VMLimits{{Disk: "root", IOPS: number("iops"), Bytes: number("bytes"), Burst: number("burst")}}
	return nil, nil
}
