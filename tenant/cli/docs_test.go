package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/cli.md")

const reference = "../../docs/cli.md"

// TestReference holds docs/cli.md equal to the commands. To write it anew:
// go test ./tenant/cli -run TestReference -update
func TestReference(t *testing.T) {
	a := &app{}
	var want bytes.Buffer
	writeReference(&want, a.root())
	if *update {
		if err := os.WriteFile(reference, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want.Bytes()) {
		t.Fatal("docs/cli.md is not what the commands say: go test ./tenant/cli -run TestReference -update")
	}
}

// TestCommandsAreComplete holds every command to its help text and example.
func TestCommandsAreComplete(t *testing.T) {
	n := 0
	walk((&app{}).root(), func(c *cobra.Command) {
		n++
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		if !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.RunE == nil {
			t.Errorf("%s does not return errors", c.CommandPath())
		}
	})
	if n < 25 {
		t.Fatalf("only %d commands were found", n)
	}
}

func walk(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		walk(sub, f)
	}
}

const preface = `# uvbond: reference

Written from the commands themselves (` + "`go test ./tenant/cli -run TestReference -update`" + `).

## Rules

- Results go to standard output; progress, prompts, notes and errors to standard error.
- Every command takes ` + "`--json`" + `: the result is JSON then, and an error is
  ` + "`{\"error\":{\"class\",\"exit\",\"message\",\"hint\"}}`" + ` on standard error. A verified refusal is on standard output too.
- What a command prints as a VM's result or state comes from a receipt that opened under the VM's bond. What the server says
  is shown only by ` + "`vm list`, `vm show`, `vm stats` and `disk list`" + `, marked as unverified.
- Prompts appear on a terminal only; elsewhere a missing answer is a usage error that names the flag.

## Exit codes

| code | class | meaning |
|-----:|-------|---------|
| 0 | done | done; where a receipt is due, it was verified |
| 1 | error | any other error |
| 2 | usage | wrong command line |
| 3 | refused | the hypervisor refused, or the command was begun and not finished (verified receipt; for ` + "`vm create`" + ` the gate's reason); ` + "`automaton run`" + `: the automaton did |
| 4 | forged | redirected or forged: the receipt, confirmation, descriptor or log is not from your VM, or a pinned key changed |
| 5 | unknown | the ticket was handed over and no receipt came: it may have been executed or not |
| 6 | connection | the server was not reached, or did not understand |
| 130 | interrupted | Ctrl-C |

Treat a code that is not listed as a failure.

## Environment and files

| name | meaning |
|------|---------|
| UVBOND_HOME | state folder; default ` + "`$XDG_CONFIG_HOME/uvbond`, else `~/.config/uvbond`" + ` |
| UVBOND_TOKEN | API token for ` + "`host add`" + ` |
| NO_COLOR | no colours |

The state folder holds the bonds: whoever reads it commands the VMs. It must be yours alone (mode 0700); back it up
as you would a private key. Several clients may use it at once.

## Commands
`

func writeReference(w *bytes.Buffer, root *cobra.Command) {
	w.WriteString(preface)
	walk(root, func(c *cobra.Command) {
		if c.HasSubCommands() || c.Hidden {
			return
		}
		fmt.Fprintf(w, "\n### %s\n\n%s.\n", c.CommandPath(), c.Short)
		fmt.Fprintf(w, "\n```\n%s\n```\n", c.UseLine())
		if c.Long != "" {
			fmt.Fprintf(w, "\n%s\n", c.Long)
		}
		flags := false
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" || f.Hidden {
				return
			}
			if !flags {
				w.WriteString("\n| flag | default | meaning |\n|------|---------|---------|\n")
				flags = true
			}
			fmt.Fprintf(w, "| `--%s` | %s | %s |\n", f.Name, deflt(f), strings.ReplaceAll(f.Usage, "|", "\\|"))
		})
		fmt.Fprintf(w, "\n```\n%s\n```\n", unindent(c.Example))
	})
}

func deflt(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "[]", "false":
		return ""
	}
	return "`" + f.DefValue + "`"
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
