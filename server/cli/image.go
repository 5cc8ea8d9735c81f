package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/vms"
)

func (a *app) image() *cobra.Command {
	return group("image", "List images, and say on which storage they are", a.imageList(), a.imagePlace())
}

type imageLine struct {
	Image   string `json:"image"`
	Tenant  string `json:"tenant"`
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	State   string `json:"state"`
	VM      string `json:"vm"`
	Storage string `json:"storage"` // "": the server's own file
	Export  string `json:"export"`
}

func (a *app) imageList() *cobra.Command {
	return &cobra.Command{
		Use: "list [TENANT]", Short: "List images", Args: between(0, 1),
		Example: "  uvbond-server image list\n  uvbond-server image list alice --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			places, err := st.Places(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			lines := []imageLine{}
			for _, p := range places {
				lines = append(lines, imageLine{p.Image, p.Tenant, p.Name, p.Size, p.State, p.VM, p.Storage, p.Export})
			}
			if a.json {
				return a.print(map[string]any{"images": lines})
			}
			return table(a.out, "IMAGE\tTENANT\tNAME\tSIZE\tSTATE\tVM\tPLACE", len(lines), func(i int) string {
				l := lines[i]
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", l.Image, l.Tenant, l.Name, config.Size(l.Size), l.State, dash(l.VM), place(l.Storage, l.Export))
			})
		},
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func place(storage, export string) string {
	if storage == "" {
		return "file"
	}
	return storage + ":" + export
}

// Names that the gate accepts.
var (
	storageName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	exportName  = regexp.MustCompile(`^[A-Za-z0-9._/:@+-]{0,255}$`)
)

type placeFlags struct {
	storage, export string
	file            bool
}

func (a *app) imagePlace() *cobra.Command {
	var f placeFlags
	c := &cobra.Command{
		Use: "place IMAGE", Short: "Say that an image's data is on a storage, or in its file again", Args: exactly(1),
		Long: "VMs that are started from now on use the export of that name, on the storage that the hypervisor's\n" +
			"configuration has under that name ([storage.NAME]). Copy the data there before; nothing is copied\n" +
			"or removed by this command. The VM that uses the image must be stopped. A disk that is still to be\n" +
			"made from a base image needs an export that is empty; it is made there from the beginning.",
		Example: "  nbdcopy /var/lib/uvbond-server/images/IMAGE 'nbd+unix:///web1?socket=/run/storage/ceph1.sock'\n" +
			"  uvbond-server image place IMAGE --storage ceph1 --export web1\n  uvbond-server image place IMAGE --file",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return &usageError{err}
			}
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			if err := setPlace(cmd.Context(), service(cfg, st, a), args[0], &f); err != nil {
				return err
			}
			if a.json {
				return a.print(map[string]string{"image": args[0], "storage": f.storage, "export": f.export})
			}
			file := filepath.Join(cfg.DataDir, "images", args[0])
			if f.file {
				_, err = fmt.Fprintf(a.out, "image %s is in %s\n", args[0], file)
				return err
			}
			_, err = fmt.Fprintf(a.out, "image %s is on %s\n%s is not used any more: remove it when the VM has started from there\n", args[0], place(f.storage, f.export), file)
			return err
		},
	}
	c.Flags().StringVar(&f.storage, "storage", "", "name of the storage in the hypervisor's configuration")
	c.Flags().StringVar(&f.export, "export", "", "name of the export there")
	c.Flags().BoolVar(&f.file, "file", false, "the data is in the server's own file")
	return c
}

func (f *placeFlags) check() error {
	switch {
	case f.file == (f.storage != ""):
		return errors.New("say --storage NAME --export NAME, or --file")
	case f.file && f.export != "":
		return errors.New("--export goes with --storage")
	case f.storage != "" && !storageName.MatchString(f.storage):
		return fmt.Errorf("--storage %q does not match %s", f.storage, storageName)
	case !exportName.MatchString(f.export):
		return fmt.Errorf("--export %q does not match %s", f.export, exportName)
	}
	return nil
}

// setPlace refuses while a VM runs on the image: it would not follow.
func setPlace(ctx context.Context, s *vms.Service, image string, f *placeFlags) error {
	p, err := s.Store.PlaceOf(ctx, image)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no image %s; see uvbond-server image list", image)
	} else if err != nil {
		return err
	}
	if p.VM != "" {
		v, err := s.Store.VMByID(ctx, p.VM)
		if err != nil {
			return err
		}
		switch st := s.WithState(ctx, []store.VM{*v})[0].State; st {
		case qmp.StateStopped, qmp.StateCrashed, vms.StateMissing:
		case vms.StateUnknown:
			return &codeError{fmt.Errorf("the gate cannot be asked whether VM %s runs", v.Name), exitConnection}
		default:
			return &codeError{fmt.Errorf("VM %s uses the image and is %s; stop it first", v.Name, st), exitRefused}
		}
	}
	err = s.Store.SetPlace(ctx, image, f.storage, f.export)
	if errors.Is(err, store.ErrState) {
		return fmt.Errorf("image %s is %s, not ready", image, p.State)
	}
	return err
}
