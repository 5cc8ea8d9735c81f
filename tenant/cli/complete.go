package cli

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvbond/uvbond/tenant"
)

type completer func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// names completes names out of the state folder, as the only argument.
func (a *app) names(list func(*tenant.Owner) ([]string, error)) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		o, err := a.owner()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, _ := list(o)
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) vmNames() completer {
	return a.names(func(o *tenant.Owner) ([]string, error) { return o.Store.VMs() })
}

// someVMNames completes the names of several VMs, each once.
func (a *app) someVMNames() completer {
	all := a.vmNames()
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		found, how := all(c, nil, word)
		return slices.DeleteFunc(found, func(name string) bool { return slices.Contains(args, name) }), how
	}
}

func (a *app) hostNames() completer {
	return a.names(func(o *tenant.Owner) ([]string, error) { return o.Store.Hosts() })
}

// hostFlag adds --host with completion.
func (a *app) hostFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "host", "", "pinned host (see: uvbond host list)")
	_ = c.MarkFlagRequired("host")
	complete := a.hostNames()
	_ = c.RegisterFlagCompletionFunc("host", func(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(c, nil, word)
	})
}

// choice registers fixed words for a flag's completion.
func choice(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeTime is how long a person who pressed Tab waits for a host.
const completeTime = 3 * time.Second

// baseName is what a host may call an image for a shell to complete it: a name comes from
// the host, and shells put it into a command line as it is.
var baseName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

// baseNames completes the base images of the host that --host names.
func (a *app) baseNames(c *cobra.Command, _ []string, _ string) (found []cobra.Completion, d cobra.ShellCompDirective) {
	d = cobra.ShellCompDirectiveNoFileComp
	o, err := a.owner()
	if err != nil {
		return nil, d
	}
	ctx, cancel := context.WithTimeout(c.Context(), completeTime)
	defer cancel()
	list, err := o.Bases(ctx, c.Flag("host").Value.String())
	if err != nil {
		return nil, d
	}
	for _, b := range list {
		if baseName.MatchString(b.Name) {
			found = append(found, b.Name)
		}
	}
	return found, d
}

// noFiles keeps shells from offering files where a value is a number or a time.
func noFiles(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if _, known := c.GetFlagCompletionFunc(f.Name); known {
			return
		}
		switch f.Value.Type() {
		case "int", "uint8", "uint16", "uint32", "uint64", "duration":
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
		}
	})
	for _, sub := range c.Commands() {
		noFiles(sub)
	}
}
