package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/tenant/fail"
)

// formatted is one text before and after.
type formatted struct {
	File    string `json:"file"`
	Changed bool   `json:"changed"` // the layout is, or was, another
	Text    string `json:"text,omitempty"`
}

func (a *app) automatonFmt() *cobra.Command {
	var write, check bool
	c := &cobra.Command{
		Use: "fmt FILE...|-", Short: "Write texts of automata in one layout",
		Long: `Prints each text in the layout of the canonical form. Comments, imports and the order of
definitions stay; comments inside of arguments move behind the hypercall. With --write
the files are replaced, and only if all of them can be parsed. With --check nothing is
written: the names of files in another layout are printed, and the exit code is 1.`,
		Example: `  uvbond automaton fmt web1.uva
  uvbond automaton fmt --write *.uva
  uvbond automaton fmt --check *.uva`,
		Args: atLeastOne,
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneInput(args...); err != nil {
				return err
			}
			list, err := a.format(c, args, write)
			if err != nil {
				return err
			}
			changed := 0
			for i := range list {
				if list[i].Changed {
					changed++
				}
				if write && list[i].Changed {
					if err := replaceFile(args[i], []byte(list[i].Text), 0o666); err != nil {
						return err
					}
				}
				if write || check {
					list[i].Text = ""
				}
			}
			err = a.print(list, func(w io.Writer) {
				for _, f := range list {
					switch {
					case check && f.Changed, write && f.Changed:
						fmt.Fprintln(w, f.File)
					case !check && !write:
						fmt.Fprint(w, f.Text)
					}
				}
			})
			if err == nil && check && changed > 0 {
				return fail.New(fail.Other, "uvbond automaton fmt --write FILE...", "%s not in the layout", isAre(changed, "file"))
			}
			return err
		},
	}
	c.Flags().BoolVarP(&write, "write", "w", false, "replace the files, print the names of those that changed")
	c.Flags().BoolVar(&check, "check", false, "only tell which files are in another layout")
	c.MarkFlagsMutuallyExclusive("write", "check")
	return c
}

// isAre writes "1 file is" or "2 files are".
func isAre(n int, what string) string {
	if n == 1 {
		return counted(n, what) + " is"
	}
	return counted(n, what) + " are"
}

// atLeastOne is for commands that take any number of files.
func atLeastOne(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fail.New(fail.Usage, "use: "+c.CommandPath()+" FILE...", "FILE is missing")
	}
	return nil
}

func (a *app) format(c *cobra.Command, args []string, write bool) ([]formatted, error) {
	list := []formatted{}
	for _, path := range args {
		if write && path == "-" {
			return nil, fail.New(fail.Usage, "without --write the result is printed", "standard input cannot be replaced")
		}
		data, err := a.readLimited(c.Context(), path, automaton.MaxText, "an automaton's text")
		if err != nil {
			return nil, err
		}
		label := path
		if path == "-" {
			label = "standard input"
		}
		text, err := automaton.Format(label, data)
		if err != nil {
			return nil, syntaxFailure(err)
		}
		list = append(list, formatted{label, text != string(data), text})
	}
	return list, nil
}

// replaceFile writes a file so that the old or the new one is there whole, with
// the old one's mode. What is no regular file, such as a pipe, is written to.
func replaceFile(path string, data []byte, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = cannotWrite(path, err)
		}
	}()
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // the link stays one
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && !st.Mode().IsRegular():
		return os.WriteFile(path, data, 0)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	temp := filepath.Join(filepath.Dir(path), ".uvbond-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer os.Remove(temp) // after a rename there is none
	_, err = f.Write(data)
	if st != nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(sys.Uid), int(sys.Gid)) // only root can keep another's
		}
		err = errors.Join(err, f.Chmod(st.Mode().Perm()))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
