package schema

import "github.com/uvbond/uvbond/qmp"

// gateCommands are the gate's own commands: what stands for them in sessions'
// automata, and what the answers hold.
var gateCommands = []*Command{
	{qmp.CmdQueryHost, Nothing(), Of[qmp.QueryHostResult]()},
	{qmp.CmdRegister, Of[qmp.RegisterArgs](), Of[qmp.RegisterResult]()},
	{qmp.CmdQueryVMs, Nothing(), Of[qmp.QueryVMsResult]()},
	{qmp.CmdOpen, Of[qmp.OpenArgs](), Of[qmp.OpenResult]()},
	{qmp.CmdClose, Nothing(), Of[qmp.CloseResult]()},
	{qmp.CmdAttach, Of[qmp.AttachArgs](), Nothing()},
	{qmp.CmdQueryDisks, Of[qmp.QueryDisksArgs](), Of[qmp.QueryDisksResult]()},
	{qmp.CmdSetLimits, Of[qmp.SetLimitsArgs](), Nothing()},
	{qmp.CmdLaunch, Of[qmp.LaunchArgs](), Nothing()},
	{qmp.CmdReadConsole, Of[qmp.ReadConsoleArgs](), Of[qmp.ChunkResult]()},
	{qmp.CmdReadAudit, Of[qmp.ReadAuditArgs](), Of[qmp.ChunkResult]()},
	{qmp.CmdSetPolicy, Nothing(), Nothing()},
	{qmp.CmdGrow, Of[qmp.GrowArgs](), Of[qmp.GrowResult]()},
	{qmp.CmdBuild, Of[qmp.BuildArgs](), Of[qmp.BuildState]()},
	{qmp.CmdDelete, Nothing(), Nothing()},
	{qmp.CmdRevoke, Of[qmp.RevokeArgs](), Nothing()},
	{qmp.CmdChannel, Of[qmp.ChannelArgs](), Of[qmp.ChannelResult]()},
}

// WithGate returns s, the schema of a version of QEMU, with the gate's own
// commands: all that a text for the gate may speak of.
func (s *Schema) WithGate() *Schema { return s.With(s.of+" with UVBond's gate", gateCommands...) }
