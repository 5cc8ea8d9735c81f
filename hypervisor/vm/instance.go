package vm

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/uvbond/uvbond/qmp"
)

// Instance is one QEMU process with a connected monitor.
type Instance struct{}

var errStub = errors.New("not yet")

func Launch(ctx context.Context, cfg Config, spec LaunchSpec) (*Instance, error) { return nil, errStub }
func Adopt(ctx context.Context, cfg Config, rec Record) (*Instance, error)       { return nil, errStub }
func Cleanup(cfg Config, id string) error                                        { return errStub }
func Terminate(ctx context.Context, cfg Config, rec Record) error                { return errStub }
func SocketDir(cfg Config, id string) string                                     { return "" }
func Prepare(cfg Config, id string, slot int) (socketDir string, err error)      { return "", errStub }
func DetectAccel() (accel, why string)                                           { return "", "" }
func Check(cfg Config) []Finding                                                 { return nil }
func ConfineMain() int                                                           { return 1 }

func (i *Instance) PID() int       { return 0 }
func (i *Instance) Record() Record { return Record{} }
func (i *Instance) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	return nil, errStub
}
func (i *Instance) Events() <-chan qmp.Event { return nil }
func (i *Instance) Done() <-chan struct{}    { return nil }
func (i *Instance) Exit() ExitInfo           { return ExitInfo{} }
func (i *Instance) Kill() error              { return errStub }
func (i *Instance) Close() error             { return nil }
