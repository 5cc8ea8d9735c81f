package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/rfb"
)

// keyPause is what passes after each key that goes down or up. QEMU itself puts 10 ms
// between two, and a guest's keyboard holds 16 that were not fetched.
const keyPause = 20 * time.Millisecond

// longestHold bounds --hold and --delay.
const longestHold = time.Minute

func (a *app) vmType() *cobra.Command {
	var enter bool
	var delay time.Duration
	c := &cobra.Command{
		Use: "type NAME TEXT", Short: "Type text at a VM's keyboard",
		Long: fmt.Sprintf(`Types TEXT at the VM's keyboard, through the owner's channel to its screen. TEXT "-" is
read from standard input: what is on a command line, all users of this machine can
see. Line ends press Enter, and tabs Tab.

It types as on a US keyboard, and the guest must have that layout: what reaches it are
the places of keys. Other characters than ASCII's are refused, before anything is typed,
and so is a VM that is paused: its keys would be lost. At most %d characters are typed at once.`, rfb.MaxTyped),
		Example: `  uvbond vm type web1 root --enter
  uvbond vm type web1 - < commands.txt
  pass show web1/luks | uvbond vm type web1 - --delay 50ms`,
		Args:              exactly(2),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runType(c.Context(), args[0], args[1], enter, delay)
		},
	}
	c.Flags().BoolVar(&enter, "enter", false, "press Enter after the text")
	c.Flags().DurationVar(&delay, "delay", keyPause, "pause after each key that goes down or up, for slow guests")
	return c
}

func (a *app) runType(ctx context.Context, name, text string, enter bool, delay time.Duration) error {
	if err := checkPause("--delay", delay); err != nil {
		return err
	}
	if text == "-" {
		data, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(a.in, rfb.MaxTyped*utf8.UTFMax+1)) }, nil)
		if err != nil {
			return err
		}
		text = string(data)
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if enter {
		text += "\n"
	}
	if err := rfb.CheckTyped(text); err != nil {
		hint := "only what is on a US keyboard can be typed; use the serial console or ssh for other text"
		if errors.Is(err, rfb.ErrTooLong) {
			hint = "type it in parts, or bring it by the serial console or ssh"
		}
		return fail.Wrap(err, fail.Usage, hint, "nothing was typed")
	}
	if err := a.hasScreen(name); err != nil {
		return err
	}
	n := utf8.RuneCountInString(text)
	limit := screenTime + time.Duration(n)*4*(delay+time.Millisecond)
	err := a.withScreen(ctx, name, "typing", limit, func(ctx context.Context, c *rfb.Client) error {
		if err := a.takesKeys(name); err != nil {
			return err
		}
		return c.Type(ctx, text, delay)
	})
	if err != nil {
		return err
	}
	return a.print(map[string]any{"vm": name, "typed": n}, func(w io.Writer) {
		fmt.Fprintf(w, "typed %s at the keyboard of %s\n", counted(n, "character"), name)
	})
}

// takesKeys refuses to press keys of a VM that does not run, by the receipt of the open
// channel: its QEMU throws them away.
func (a *app) takesKeys(name string) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	if why := o.Idle(name); why != "" {
		return fail.New(fail.Other, "let it run first: uvbond vm resume "+name, "no key was pressed: %s", why)
	}
	return nil
}

func checkPause(flag string, d time.Duration) error {
	if d < 0 || d > longestHold {
		return fail.New(fail.Usage, fmt.Sprintf("from 0 to %s", longestHold), "%s %s is out of range", flag, d)
	}
	return nil
}

func (a *app) vmSendKey() *cobra.Command {
	var hold, delay time.Duration
	var list bool
	c := &cobra.Command{
		Use: "send-key NAME KEYS...", Short: "Press keys at a VM's keyboard",
		Long: fmt.Sprintf(`Presses combinations of keys at the VM's keyboard, one after the other, through the
owner's channel to its screen. KEYS are names joined with "-" or "+": they go down in
their order and up in the opposite one. The names are QEMU's, as in ctrl-alt-f2 (--list
prints them); libvirt's are known too, as in KEY_LEFTCTRL+KEY_C. At most %d are held at
once. A VM that is paused takes no keys.`, rfb.MaxCombination),
		Example: `  uvbond vm send-key web1 ctrl-alt-delete
  uvbond vm send-key web1 esc down down ret
  uvbond vm send-key web1 alt-sysrq-s --hold 500ms
  uvbond vm send-key --list`,
		Args: func(c *cobra.Command, args []string) error {
			if list {
				return exactly(0)(c, args)
			}
			return between(2, 1024)(c, args)
		},
		ValidArgsFunction: a.vmThenKeys(),
		RunE: func(c *cobra.Command, args []string) error {
			if list {
				return a.print(rfb.KeyNames(), func(w io.Writer) { fmt.Fprintln(w, strings.Join(rfb.KeyNames(), "\n")) })
			}
			return a.runSendKey(c.Context(), args[0], args[1:], hold, delay)
		},
	}
	c.Flags().DurationVar(&hold, "hold", 100*time.Millisecond, "how long a combination is held")
	c.Flags().DurationVar(&delay, "delay", keyPause, "pause after each key that goes down or up")
	c.Flags().BoolVar(&list, "list", false, "print the names of keys")
	return c
}

func (a *app) runSendKey(ctx context.Context, name string, names []string, hold, delay time.Duration) error {
	if err := checkPause("--hold", hold); err != nil {
		return err
	}
	if err := checkPause("--delay", delay); err != nil {
		return err
	}
	combinations := make([][]rfb.Key, len(names))
	limit := screenTime
	for i, text := range names {
		keys, err := rfb.ParseKeys(text)
		if err != nil {
			hint := "their names: uvbond vm send-key --list"
			var unknown *rfb.KeyError
			if errors.As(err, &unknown) && unknown.Near != "" {
				hint = "did you mean " + unknown.Near + "? " + hint
			}
			return fail.Wrap(err, fail.Usage, hint, "no key was pressed")
		}
		combinations[i] = keys
		limit += hold + time.Duration(2*len(keys))*(delay+time.Millisecond)
	}
	if err := a.hasScreen(name); err != nil {
		return err
	}
	err := a.withScreen(ctx, name, "pressing keys", limit, func(ctx context.Context, c *rfb.Client) error {
		if err := a.takesKeys(name); err != nil {
			return err
		}
		for _, keys := range combinations {
			if err := c.Press(ctx, keys, delay, hold); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.print(map[string]any{"vm": name, "pressed": names}, func(w io.Writer) {
		fmt.Fprintf(w, "pressed %s at the keyboard of %s\n", strings.Join(names, " "), name)
	})
}

// vmThenKeys completes the name of a VM, and then the last key of a combination.
func (a *app) vmThenKeys() completer {
	vms := a.vmNames()
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return vms(c, args, word)
		}
		before := word[:strings.LastIndexAny(word, "-+")+1]
		var found []cobra.Completion
		for _, n := range rfb.KeyNames() {
			if strings.HasPrefix(before+n, word) {
				found = append(found, before+n)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}
