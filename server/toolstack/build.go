package toolstack

import (
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
	if len(s.cmd.Disks) != 1 || s.cmd.Base == nil {
		return &failure{"a base image and one disk are needed"}
	}
	d := s.cmd.Disks[0]
	for n := 0; ; {
		var r qmp.BuildState
		if err := s.call(buildTimeout, qmp.CmdBuild, qmp.BuildArgs{Disk: d.Name}, &r, s.cmd.Base, d.File); err != nil {
			return err
		}
		if n++; r.Phase == qmp.BuildDone || n >= buildSteps || s.waiting.Err() != nil || time.Until(s.deadline) < buildMargin {
			return nil
		}
	}
}
