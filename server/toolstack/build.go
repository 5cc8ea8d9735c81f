package toolstack

import (
	"os"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

const (
	// buildTimeout bounds one step. The hypervisor works for seconds, and then waits
	// until what it wrote is on the image's storage, which may be slow.
	buildTimeout = 5 * time.Minute
	// buildMargin is how long before the session's deadline no step is begun.
	buildMargin = 20 * time.Second
	// buildSteps are the most of a session: the gate has a limit.
	buildSteps = 500
)

// build goes on with making a disk from its base image until it is made, nobody
// waits any more, or the session has to end. What was done stays done, so that is
// no failure: the owner's next ticket goes on from there.
func build(s *session) error {
	if len(s.cmd.Disks)+len(s.cmd.Exports) != 1 || s.cmd.Base == nil {
		return &failure{"a base image and one disk are needed"}
	}
	args, files := qmp.BuildArgs{}, []*os.File{s.cmd.Base}
	if len(s.cmd.Exports) == 1 {
		x := s.cmd.Exports[0]
		args = qmp.BuildArgs{Disk: x.Name, Place: &qmp.Place{Storage: x.Storage, Export: x.Export}}
	} else {
		args.Disk = s.cmd.Disks[0].Name
		files = append(files, s.cmd.Disks[0].File)
	}
	for n := 0; ; {
		var r qmp.BuildState
		if err := s.call(buildTimeout, qmp.CmdBuild, args, &r, files...); err != nil {
			return err
		}
		if n++; r.Phase == qmp.BuildDone || n >= buildSteps || s.waiting.Err() != nil || time.Until(s.deadline) < buildMargin {
			return nil
		}
	}
}
