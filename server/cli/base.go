package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/bases"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
)

func (a *app) base() *cobra.Command {
	return group("base", "Offer public base images, from which tenants' disks are made", a.baseAdd(), a.baseList(), a.baseRemove())
}

type baseLine struct {
	Name   string    `json:"name"`
	Size   int64     `json:"size"` // bytes
	SHA256 string    `json:"sha256"`
	Added  time.Time `json:"added"`
}

func lineOf(b *store.Base) baseLine {
	return baseLine{b.Name, b.Size, hex.EncodeToString(b.SHA256[:]), b.Added}
}

func (a *app) baseAdd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "add FILE", Short: "Copy a raw disk image and offer it to all tenants", Args: exactly(1),
		Long: "The image is public: every tenant can have a disk made from it, and it is stored as it is. Tenants name the\n" +
			"SHA-256 that they expect, so say where it is published. The file must be raw: convert with qemu-img before.",
		Example: "  uvbond-server base add debian-12-nocloud-amd64.raw --name debian-12.raw\n  uvbond-server base add /dev/vg/template --name template.raw --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			// Before this becomes the owner of the data, who may not be able to read it.
			src, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer src.Close()
			if name == "" {
				name = filepath.Base(args[0])
			}
			if err := bases.CheckName(name); err != nil {
				return &usageError{fmt.Errorf("%w: give one with --name", err)}
			}
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			b, err := server.BaseStore(cfg, st).Add(cmd.Context(), name, src, nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.print(lineOf(b))
			}
			_, err = fmt.Fprintf(a.out, "offered as %s: %s, SHA-256 %x\n", b.Name, config.Size(b.Size), b.SHA256)
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "name that tenants see (default: the file's)")
	return c
}

func (a *app) baseList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the base images on offer", Args: exactly(0), Example: "  uvbond-server base list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			list, err := st.Bases(cmd.Context())
			if err != nil {
				return err
			}
			lines := []baseLine{}
			for i := range list {
				lines = append(lines, lineOf(&list[i]))
			}
			if a.json {
				return a.print(map[string]any{"bases": lines})
			}
			return table(a.out, "NAME\tSIZE\tSHA-256\tADDED", len(lines), func(i int) string {
				l := lines[i]
				return fmt.Sprintf("%s\t%s\t%s\t%s", l.Name, config.Size(l.Size), l.SHA256, l.Added.Format(time.DateOnly))
			})
		},
	}
}

func (a *app) baseRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Offer a base image no more", Args: exactly(1), Example: "  uvbond-server base remove debian-12.raw",
		Long: "Disks that were made from it stay as they are. Those that are still being made wait until an image with the same\n" +
			"content is offered under the same name again.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			err = server.BaseStore(cfg, st).Remove(cmd.Context(), args[0])
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("no base image %s; see uvbond-server base list", args[0])
			} else if err != nil {
				return err
			}
			if a.json {
				return a.print(map[string]string{"removed": args[0]})
			}
			_, err = fmt.Fprintf(a.out, "%s is not offered any more\n", args[0])
			return err
		},
	}
}
