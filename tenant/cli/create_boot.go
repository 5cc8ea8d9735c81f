package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/firstboot"
)

// bootFlags are those of vm create that are about the guest's first boot.
type bootFlags struct {
	userData, network, hostname string
	keys                        []string
	noHostKeys, noConsoleSize   bool
}

func addBootFlags(c *cobra.Command, f *bootFlags) {
	c.Flags().StringVar(&f.userData, "user-data", "", "file with the user data for cloud-init: #cloud-config, a script, MIME ...")
	c.Flags().StringVar(&f.network, "network-config", "", "file with the network configuration for cloud-init (default: DHCP on all network cards)")
	c.Flags().StringArrayVar(&f.keys, "ssh-key", nil, "file with public ssh keys that may log in as cloud-init's default user (repeatable)")
	c.Flags().StringVar(&f.hostname, "hostname", "", "host name of the guest (default: of NAME)")
	c.Flags().BoolVar(&f.noHostKeys, "no-host-keys", false, "let the guest make its ssh host keys, which uvbond does not know then")
	c.Flags().BoolVar(&f.noConsoleSize, "no-console-size", false, "give the guest nothing that tells its bash the size of the console's terminal")
	choice(c, "hostname")
}

// read reads the files; nil when no flag asks for a first boot.
func (f *bootFlags) read(ctx context.Context) (*tenant.FirstBoot, error) {
	if f.userData == "" && f.network == "" && f.hostname == "" && len(f.keys) == 0 {
		if f.noHostKeys {
			return nil, fail.New(fail.Usage, "give --user-data or --ssh-key as well, or leave it out", "--no-host-keys is about a first boot, and there is none")
		}
		if f.noConsoleSize {
			return nil, fail.New(fail.Usage, "give --user-data or --ssh-key as well, or leave it out", "--no-console-size is about a first boot, and there is none")
		}
		return nil, nil
	}
	b := &tenant.FirstBoot{Hostname: f.hostname, NoHostKeys: f.noHostKeys, NoConsoleSize: f.noConsoleSize}
	var err error
	if f.userData != "" {
		if b.UserData, err = readCapped(ctx, "--user-data", f.userData, bond.MaxSeed); err != nil {
			return nil, err
		}
	}
	if f.network != "" {
		if b.NetworkConfig, err = readCapped(ctx, "--network-config", f.network, bond.MaxSeed); err != nil {
			return nil, err
		}
	}
	for _, path := range f.keys {
		text, err := readCapped(ctx, "--ssh-key", path, firstboot.MaxKeyFile)
		if err != nil {
			return nil, err
		}
		keys, err := firstboot.ReadKeys(path, text)
		if err != nil {
			return nil, err
		}
		b.AuthorizedKeys = append(b.AuthorizedKeys, keys...)
	}
	return b, nil
}

// readCapped reads a file that may be anything, a pipe too into which nobody writes, and
// no more of it than limit bytes.
func readCapped(ctx context.Context, flag, path string, limit int) ([]byte, error) {
	return await(ctx, func() ([]byte, error) { return readFile(flag, path, limit) }, nil)
}

func readFile(flag, path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		hint := "give the path of a file"
		if errors.Is(err, fs.ErrPermission) {
			hint = "give a file that you may read"
		}
		if rest, home := strings.CutPrefix(path, "~/"); home && errors.Is(err, fs.ErrNotExist) {
			hint = "the shell did not expand the tilde: write $HOME/" + rest
		}
		return nil, fail.Wrap(err, fail.Other, hint, "%s", flag)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, fail.Wrap(err, fail.Other, "give a file that can be read", "%s", flag)
	case st.IsDir():
		return nil, fail.New(fail.Usage, "give the path of a file", "%s: %s is a folder", flag, path)
	case st.Mode().IsRegular() && st.Size() > int64(limit):
		return nil, fail.New(fail.Usage, "is it the right file?", "%s: %s has %s, at most %s can be used", flag, path, bytesText(uint64(st.Size())), bytesText(uint64(limit)))
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "give a file that can be read", "%s", flag)
	}
	if len(data) > limit {
		bond.Wipe(data)
		return nil, fail.New(fail.Usage, "is it the right file?", "%s: %s has more than the %s that can be used", flag, path, bytesText(uint64(limit)))
	}
	return data, nil
}
