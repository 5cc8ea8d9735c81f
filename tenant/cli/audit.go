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

// attempts tells refused attempts from further records about them: the end of a session
// in which something was refused is marked as well, and is no attempt of its own.
type attempts struct {
	opened map[string]uint64 // sequence numbers, by session
	last   uint64            // of the last record of kind refused
}

// next tells whether a record, in the log's order, stands for one more refused attempt.
func (t *attempts) next(r *bond.AuditRecord) bool {
	session := r.Fields["session"]
	switch {
	case r.Kind == "refused":
		t.last = r.Seq
		return true
	case r.Kind == "open":
		if t.opened == nil {
			t.opened = map[string]uint64{}
		}
		t.opened[session] = r.Seq
	case r.Kind == "close":
		from, known := t.opened[session]
		delete(t.opened, session)
		return wasRefused(r) && !(known && t.last > from)
	}
	return false
}

func (a *app) writeAudit(log *tenant.AuditLog, refused, verified bool) error {
	views, count, tried := []recordView{}, 0, attempts{}
	for i := range log.Records {
		r := &log.Records[i]
		bad := wasRefused(r)
		if tried.next(r) {
			count++
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
		switch count {
		case 0:
			fmt.Fprintln(w, "nothing was refused")
		case 1:
			fmt.Fprintln(w, a.strong("1 refused attempt is marked with !!"))
		default:
			fmt.Fprintln(w, a.strong(fmt.Sprintf("%d refused attempts are marked with !!", count)))
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
