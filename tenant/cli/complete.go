package cli

import (
	"github.com/spf13/cobra"

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
