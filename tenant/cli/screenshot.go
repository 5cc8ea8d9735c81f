package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/rfb"
)

func (a *app) vmScreenshot() *cobra.Command {
	var force bool
	var limit time.Duration
	c := &cobra.Command{
		Use: "screenshot NAME OUT", Short: "Take a picture of a VM's screen",
		Long: `Writes what the VM's screen shows now to OUT as PNG; "-" is standard output. The picture
comes through the owner's channel, sealed between this program and the hypervisor: the
management server does not see it. With --json and "-" it is part of the result, in
base64.`,
		Example:           "  uvbond vm screenshot web1 web1.png\n  uvbond vm screenshot web1 - | display",
		Args:              exactly(2),
		ValidArgsFunction: a.vmThenFile(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runScreenshot(c.Context(), args[0], args[1], force, limit)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace OUT when it exists")
	c.Flags().DurationVar(&limit, "timeout", screenTime, "how long to wait for the whole picture")
	return c
}

// vmThenFile completes the name of a VM, and then files.
func (a *app) vmThenFile() completer {
	names := a.vmNames()
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return []cobra.Completion{"png"}, cobra.ShellCompDirectiveFilterFileExt
		}
		return names(c, args, word)
	}
}

type screenshotView struct {
	VM     string `json:"vm"`
	File   string `json:"file,omitempty"`
	Format string `json:"format"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Bytes  int    `json:"bytes"`
	PNG    []byte `json:"png,omitempty"`
}

func (a *app) runScreenshot(ctx context.Context, name, out string, force bool, limit time.Duration) error {
	if limit <= 0 {
		return fail.New(fail.Usage, "for example --timeout 30s", "--timeout %s is no time", limit)
	}
	if err := a.checkPicture(out, force); err != nil {
		return err
	}
	if err := a.hasScreen(name); err != nil {
		return err
	}
	var picture *image.RGBA
	err := a.withScreen(ctx, name, "looking at the screen", limit, func(ctx context.Context, c *rfb.Client) (err error) {
		picture, err = c.Screenshot(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var data bytes.Buffer
	if err := png.Encode(&data, picture); err != nil {
		return err
	}
	v := screenshotView{VM: name, File: out, Format: "png", Width: picture.Rect.Dx(), Height: picture.Rect.Dy(), Bytes: data.Len()}
	if out == "-" {
		v.File, v.PNG = "", data.Bytes()
		if !a.json {
			_, err := a.out.Write(data.Bytes())
			return err
		}
		return a.print(v, nil)
	}
	if force {
		err = replaceFile(out, data.Bytes(), 0o600)
	} else {
		err = newFile(out, data.Bytes())
	}
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "wrote the screen of %s (%dx%d) to %s\n", name, v.Width, v.Height, out)
	})
}

// checkPicture refuses an output before anything is asked for.
func (a *app) checkPicture(out string, force bool) error {
	if out == "-" {
		if f, ok := a.out.(*os.File); ok && !a.json && term.IsTerminal(int(f.Fd())) {
			return fail.New(fail.Usage, "give a file, or send it on to a program", "a picture is not for a terminal")
		}
		return nil
	}
	if out == "" {
		return fail.New(fail.Usage, "give the name of a file, or - for standard output", "OUT is empty")
	}
	st, err := os.Stat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if dir, err := os.Stat(filepath.Dir(out)); err != nil || !dir.IsDir() {
			return fail.New(fail.Other, "make it first, or choose another", "cannot write %s: there is no folder %s", out, filepath.Dir(out))
		}
		return nil
	case err != nil:
		return fail.Wrap(err, fail.Other, "check the path", "cannot write %s", out)
	case st.IsDir():
		return fail.New(fail.Usage, "give the name of a file", "%s is a folder", out)
	case !force:
		return fileExists(out)
	}
	return nil
}

func fileExists(path string) error {
	return fail.New(fail.Usage, "choose another name, or replace it with --force", "%s exists already", path)
}

// newFile writes a file that only its owner can read, whole or not at all, and never
// over another.
func newFile(path string, data []byte) (err error) {
	temp := filepath.Join(filepath.Dir(path), ".uvbond-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		defer os.Remove(temp)
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			err = os.Link(temp, path) // for file systems that know no such renaming
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fileExists(path)
	}
	if err != nil {
		return cannotWrite(path, err)
	}
	return nil
}

// cannotWrite tells what failed without the name of a temporary file.
func cannotWrite(path string, err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		err = number
	}
	return fail.Wrap(err, fail.Other, "check the path and its folder", "cannot write %s", path)
}
