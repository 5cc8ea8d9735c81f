package images

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"github.com/uvbond/uvbond/server/store"
)

// Exports says that disks which the hypervisor makes from base images are not in the
// server's files but on a storage of the hypervisor's, each as an export with the
// image's id for its name. The zero Exports says that they are in files.
type Exports struct {
	Storage string // its name in the hypervisor's configuration
	// Program is run as
	//
	//	PROGRAM make STORAGE EXPORT BYTES
	//	PROGRAM remove STORAGE EXPORT
	//
	// and has to have done it when it ends with 0, also when it is run again. "":
	// somebody else makes and removes exports.
	Program string
}

const (
	// programTime bounds one run of the program.
	programTime = 30 * time.Second
	// programOutput is how much of what it prints is kept for the log, in bytes.
	programOutput = 1 << 10
)

// make has the export of an image made.
func (x *Exports) make(ctx context.Context, img *store.Image) error {
	return x.run(ctx, "make", img.Storage, img.Export, strconv.FormatInt(img.Size, 10))
}

// remove has it removed, if it was made here. Where `image place` put an image is the
// provider's.
func (x *Exports) remove(ctx context.Context, img *store.Image) error {
	if img.Base == "" || img.Storage == "" || img.Export != img.ID {
		return nil
	}
	return x.run(ctx, "remove", img.Storage, img.Export)
}

func (x *Exports) run(ctx context.Context, args ...string) error {
	if x.Program == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.Program, args...)
	cmd.WaitDelay = time.Second // for what it left behind with its output open
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %q", x.Program, args[0], errors.Join(ctx.Err(), err), out.b)
	}
	return nil
}

// head keeps the beginning of what is written to it.
type head struct{ b []byte }

func (h *head) Write(b []byte) (int, error) {
	h.b = append(h.b, b[:min(len(b), programOutput-len(h.b))]...)
	return len(b), nil
}
