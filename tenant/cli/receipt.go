package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

func (a *app) receiptCommand() *cobra.Command {
	c := &cobra.Command{Use: "receipt", Short: "Look at the receipts of past commands"}
	group(c)
	c.AddCommand(a.receiptList(), a.receiptShow())
	return c
}

type storedView struct {
	receiptView
	Received int64 `json:"received"`
	Verified bool  `json:"verified"`
}

func storedJSON(s tenant.Stored) storedView {
	v := storedView{Received: s.Received, Verified: s.Opened != nil}
	v.Nonce = hex.EncodeToString(s.Nonce)
	if s.Opened != nil {
		v.receiptView = receiptJSON(s.Opened)
	}
	return v
}

func (a *app) receipts(name string) ([]tenant.Stored, error) {
	o, err := a.owner()
	if err != nil {
		return nil, err
	}
	list, damaged, err := o.Receipts(name)
	if damaged > 0 {
		a.note("note: %d damaged lines in the receipts of %s were left out", damaged, name)
	}
	return list, err
}

func (a *app) receiptList() *cobra.Command {
	return &cobra.Command{
		Use: "list NAME", Short: "List the stored receipts of a VM", Aliases: []string{"ls"},
		Long:              "Lists the newest 1000 receipts. Each is stored as it came, sealed, and verified again now.",
		Example:           "  uvbond receipt list web1",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := a.receipts(args[0])
			if err != nil {
				return err
			}
			views, rows := []storedView{}, [][]string{}
			for _, s := range list {
				v := storedJSON(s)
				views = append(views, v)
				verdict := v.Verdict
				if !v.Verified {
					verdict = a.strong("DOES NOT OPEN")
				}
				rows = append(rows, []string{short(s.Nonce), clock(v.Received), dash(v.Command), verdict, dash(v.State), dash(v.Class)})
			}
			return a.print(views, func(w io.Writer) {
				table(w, []string{"NONCE", "RECEIVED", "COMMAND", "VERDICT", "STATE", "CLASS"}, rows)
			})
		},
	}
}

func (a *app) receiptShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME [NONCE]", Short: "Show one receipt, the newest by default",
		Long:              "Shows a receipt with every hypercall. NONCE may be its first digits, as in the list.",
		Example:           "  uvbond receipt show web1\n  uvbond receipt show web1 3fa9c2",
		Args:              between(1, 2),
		ValidArgsFunction: a.vmNames(),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := a.receipts(args[0])
			if err != nil {
				return err
			}
			s, err := pick(list, args)
			if err != nil {
				return err
			}
			v := storedJSON(*s)
			return a.print(v, func(w io.Writer) { a.writeReceipt(w, args[0], v) })
		},
	}
}

func pick(list []tenant.Stored, args []string) (*tenant.Stored, error) {
	if len(list) == 0 {
		return nil, fail.New(fail.Other, "receipts come with commands, for example: uvbond vm status "+args[0], "there are no receipts of %q", args[0])
	}
	if len(args) == 1 {
		return &list[len(list)-1], nil
	}
	want := strings.ToLower(args[1])
	var found *tenant.Stored
	for i := range list {
		if strings.HasPrefix(hex.EncodeToString(list[i].Nonce), want) {
			if found != nil {
				return nil, fail.New(fail.Usage, "give more digits", "several receipts begin with %s", want)
			}
			found = &list[i]
		}
	}
	if found == nil {
		return nil, fail.New(fail.Usage, "see: uvbond receipt list "+args[0], "no receipt of %q begins with %s", args[0], want)
	}
	return found, nil
}

func (a *app) writeReceipt(w io.Writer, name string, v storedView) {
	if !v.Verified {
		fmt.Fprintf(w, "receipt %s: %s under the bond of %s\n", v.Nonce, a.strong("DOES NOT OPEN"), name)
		return
	}
	pairs(w, "receipt", v.Nonce, "vm", name, "command", v.Command, "verdict", v.Verdict, "class", v.Class, "reason", v.Reason,
		"state after", v.State, "instance", fmt.Sprint(v.Instance), "host's time", clock(v.HostTime), "received", clock(v.Received),
		"audit", fmt.Sprintf("%d records, head %s", v.AuditSeq, v.AuditHead))
	for i, c := range v.Calls {
		verdict := c.Verdict
		if c.Verdict == "refused" {
			verdict = a.strong(verdict)
		}
		fmt.Fprintf(w, "  %2d. %s %s: %s %s\n", i+1, c.Command, c.Arguments, verdict, c.Detail)
	}
}
