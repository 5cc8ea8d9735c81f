package gate

import (
	"context"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// queryDisks and setLimits need no session: the one tells what the storage sees
// from its side, the other is service that the provider can refuse altogether.

func (c *connection) queryDisks(ctx context.Context, args qmp.QueryDisksArgs) (any, *qmp.Error) {
	id, err := bond.ParseVMID(args.VM)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	r, err := c.gate.host.QueryDisks(ctx, id)
	if err != nil {
		return nil, c.gate.public(qmp.CmdQueryDisks, err)
	}
	return *r, nil
}

func (c *connection) setLimits(ctx context.Context, cred *qmp.Cred, args qmp.SetLimitsArgs) *qmp.Error {
	id, err := bond.ParseVMID(args.VM)
	if err != nil {
		return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	l := qmp.DiskLimits{IOPS: args.IOPS, Bytes: args.Bytes, Burst: args.Burst}
	if err := l.Validate(); err != nil {
		return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	return c.gate.public(qmp.CmdSetLimits, c.gate.host.SetLimits(ctx, id, args.Disk, l, credName(cred)))
}
