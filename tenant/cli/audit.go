package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
)

func (a *app) auditCommand() *cobra.Command {
	var refused bool
	c := &cobra.Command{
		Use: "audit NAME", Short: "Show what happened to a VM, and what operators tried",
		Long: `Fetches the hypervisor's log of the bond, sealed for you, verifies the hash chain, and
checks that every stored receipt and the last verified head stand in it. Refused
attempts are marked with "!!". A log that was set back or rewritten is told with exit code 4.`,
		Example:           "  uvbond audit web1\n  uvbond audit web1 --refused --json",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			log, err := o.Audit(c.Context(), args[0], a.reporter())
			if log == nil {
				return err
			}
			if perr := a.writeAudit(log, refused, err == nil); err == nil {
				err = perr
			}
			return err
		},
	}
	c.Flags().BoolVar(&refused, "refused", false, "only what was refused")
	return c
}

type recordView struct {
	Seq     uint64            `json:"seq"`
	TimeMS  int64             `json:"time_ms"`
	Kind    string            `json:"kind"`
	Who     string            `json:"who"`
	Text    string            `json:"text"`
	Fields  map[string]string `json:"fields,omitempty"`
	Refused bool              `json:"refused"`
}

// wasRefused tells attempts that the hypervisor turned down.
func wasRefused(r *bond.AuditRecord) bool {
	return r.Kind == "refused" || r.Fields["verdict"] == bond.VerdictRefused
}

func (a *app) writeAudit(log *tenant.AuditLog, refused, verified bool) error {
	views, count := []recordView{}, 0
	for i := range log.Records {
		r := &log.Records[i]
		bad := wasRefused(r)
		if r.Kind == "refused" {
			count++ // the end of its session is marked too, and is no further attempt
		}
		if bad || !refused {
			views = append(views, recordView{r.Seq, r.Time, r.Kind, r.Who, r.Text, r.Fields, bad})
		}
	}
	view := map[string]any{
		"vm": log.VM, "verified": verified, "records": views, "total": len(log.Records), "refused": count,
		"head": hex.EncodeToString(log.Head[:]), "receipts_found": log.Receipts,
	}
	return a.print(view, func(w io.Writer) {
		for _, v := range views {
			a.writeRecord(w, v)
		}
		fmt.Fprintf(w, "\n%d records, head %s...\n", len(log.Records), hex.EncodeToString(log.Head[:8]))
		if verified {
			fmt.Fprintf(w, "verified: the chain is whole, and %d stored receipts stand in it\n", log.Receipts)
		}
		if count > 0 {
			fmt.Fprintln(w, a.strong(fmt.Sprintf("%d refused attempts are marked with !!", count)))
		} else {
			fmt.Fprintln(w, "nothing was refused")
		}
	})
}

func (a *app) writeRecord(w io.Writer, v recordView) {
	mark, kind := "  ", v.Kind
	if v.Refused {
		mark, kind = a.strong("!!"), a.strong(v.Kind)
	}
	fmt.Fprintf(w, "%s %s  %4d  %-12s  %s", mark, stamp(v.TimeMS), v.Seq, kind, v.Text)
	var extra []string
	for _, k := range slices.Sorted(maps.Keys(v.Fields)) {
		extra = append(extra, k+"="+strings.Join(strings.Fields(v.Fields[k]), " "))
	}
	if len(extra) > 0 {
		fmt.Fprintf(w, "  {%s}", strings.Join(extra, " "))
	}
	if v.Who != "" {
		fmt.Fprintf(w, "  [%s]", v.Who)
	}
	fmt.Fprintln(w)
}
