package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

func (a *app) vmSSH() *cobra.Command {
	var user, identity, hostKey string
	var more []string
	c := &cobra.Command{
		Use: "ssh NAME [-- COMMAND...]", Short: "Log in to a VM by ssh, through a sealed channel",
		Long: `Runs OpenSSH's ssh with a channel to the guest's sshd in the place of a network
connection. ssh trusts only the host keys that are known of this VM: vm create makes
them, or they are recorded here with --host-key. Nothing is trusted on first use, and
neither the network nor the management server can put another machine there.

Words behind -- are the command to run in the guest. Further arguments for ssh are given
one by one with --ssh-arg. The exit code is ssh's: the command's, or 255.

With --host-key the keys in FILE become the only ones that are trusted, and ssh is not
run. FILE is like the guest's /etc/ssh/ssh_host_ed25519_key.pub; - is standard input.
Take it from the guest's console, not from a network.`,
		Example: "  uvbond vm ssh web1\n  uvbond vm ssh web1 --user debian -- uname -a\n  uvbond vm ssh web1 --ssh-arg=-L --ssh-arg=8080:localhost:80\n  uvbond vm ssh web1 --host-key ssh_host_ed25519_key.pub",
		Args: func(c *cobra.Command, args []string) error {
			if dash := c.ArgsLenAtDash(); dash > 1 || dash < 0 && len(args) > 1 {
				return fail.New(fail.Usage, "write the command behind --: uvbond vm ssh "+args[0]+" -- "+strings.Join(args[1:], " "), "%q is one argument too many", args[1])
			}
			return between(1, 1<<16)(c, args)
		},
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			if hostKey != "" {
				return a.recordHostKeys(c.Context(), o, args[0], hostKey)
			}
			var extra []string
			if user != "" {
				extra = append(extra, "-l", user)
			}
			if identity != "" {
				extra = append(extra, "-i", identity)
			}
			return a.runSSH(o, args[0], append(extra, more...), args[1:])
		},
	}
	c.Flags().StringVarP(&user, "user", "l", "", "user in the guest (default: ssh's, the name of the user here)")
	c.Flags().StringVarP(&identity, "identity", "i", "", "file with the private key to log in with")
	c.Flags().StringArrayVar(&more, "ssh-arg", nil, "one more argument for ssh; may be repeated")
	c.Flags().StringVar(&hostKey, "host-key", "", "record the guest's host keys from FILE (- is standard input)")
	choice(c, "user")
	choice(c, "ssh-arg")
	_ = c.MarkFlagFilename("identity")
	_ = c.MarkFlagFilename("host-key")
	return c
}

func (a *app) recordHostKeys(ctx context.Context, o *tenant.Owner, name, file string) error {
	in := io.Reader(a.in)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fail.Wrap(err, fail.Usage, "give the path of a file, or - for standard input", "host keys")
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return fail.Wrap(err, fail.Other, "give the path of a file with the guest's host keys", "host keys")
	}
	vm, err := o.RecordHostKeys(ctx, name, text)
	if err != nil {
		return err
	}
	return a.print(struct {
		VM       string   `json:"vm"`
		HostKeys []string `json:"host_keys"`
	}{name, vm.HostKeys}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is known by %d host keys now\n", name, len(vm.HostKeys))
	})
}

// sshOptions finds what ssh is to be told of a VM.
func (a *app) sshOptions(o *tenant.Owner, name string) ([][2]string, error) {
	known, err := o.KnownHosts(name)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	state := home()
	if state != "" {
		if state, err = filepath.Abs(state); err != nil {
			return nil, err
		}
	}
	return tenant.SSHOptions(name, program, state, known), nil
}

// runSSH replaces this process by ssh, which has the terminal and the exit code then.
func (a *app) runSSH(o *tenant.Owner, name string, extra, command []string) error {
	options, err := a.sshOptions(o, name)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fail.New(fail.Other, "install it: apt-get install openssh-client", "ssh is not on this machine")
	}
	args := []string{"ssh"}
	for _, o := range options {
		args = append(args, "-o", o[0]+"="+o[1])
	}
	args = append(args, extra...)
	args = append(args, "--", tenant.SSHName(name))
	args = append(args, command...)
	err = syscall.Exec(program, args, os.Environ())
	return fail.Wrap(err, fail.Other, "does it run by itself? ssh -V", "cannot run %s", program)
}

func (a *app) vmSSHConfig() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use: "ssh-config [NAME...]", Short: "Print ssh's configuration for VMs",
		Long: `Prints what makes ssh, scp, sftp, rsync, git and ansible reach VMs through channels, under the
names NAME.uvbond: put it at the beginning of ~/.ssh/config, or into a file that is included there. It names
this program and the state folder by their paths. Without names it has all VMs whose
host keys are known. The files with these keys are written.`,
		Example:           "  uvbond vm ssh-config web1 >> ~/.ssh/config\n  ssh root@web1.uvbond\n  rsync -a site/ root@web1.uvbond:/var/www/",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.someVMNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if args, err = a.withHostKeys(o); err != nil {
					return err
				}
			}
			return a.sshConfig(o, args, user)
		},
	}
	c.Flags().StringVarP(&user, "user", "l", "", "user in the guests, written as User")
	choice(c, "user")
	return c
}

func (a *app) withHostKeys(o *tenant.Owner) (names []string, err error) {
	all, err := o.Store.VMs()
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		vm, err := o.Store.VM(name)
		if err != nil {
			return nil, err
		}
		if len(vm.HostKeys) > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fail.New(fail.Usage, "record a VM's: uvbond vm ssh NAME --host-key FILE", "no VM's ssh host keys are known")
	}
	return names, nil
}

type sshHost struct {
	VM      string            `json:"vm"`
	Host    string            `json:"host"`
	Options map[string]string `json:"options"`
}

func (a *app) sshConfig(o *tenant.Owner, names []string, user string) error {
	if strings.ContainsAny(user, " \t\n\"") {
		return fail.New(fail.Usage, "give the name of a user in the guests, such as --user debian", "%q is no user's name", user)
	}
	var hosts []sshHost
	var text strings.Builder
	for _, name := range names {
		options, err := a.sshOptions(o, name)
		if err != nil {
			return err
		}
		if user != "" {
			options = append(options, [2]string{"User", user})
		}
		h := sshHost{VM: name, Host: tenant.SSHName(name), Options: map[string]string{}}
		fmt.Fprintf(&text, "Host %s\n", h.Host)
		for _, o := range options {
			h.Options[o[0]] = o[1]
			fmt.Fprintf(&text, "    %s %s\n", o[0], o[1])
		}
		hosts = append(hosts, h)
	}
	return a.print(hosts, func(w io.Writer) { io.WriteString(w, text.String()) }) //nolint:errcheck // as for other results
}
