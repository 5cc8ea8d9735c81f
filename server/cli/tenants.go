package cli

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
)

func (a *app) token() *cobra.Command {
	return group("token", "Make, list and revoke tenants' API tokens", a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var note string
	c := &cobra.Command{
		Use: "create TENANT", Short: "Make a token; a new tenant is made with it", Args: exactly(1),
		Long:    "Prints the token, once: only its SHA-256 is stored. A tenant that does not exist yet is made\nwith the quota of the configuration.",
		Example: "  uvbond-server token create alice\n  uvbond-server token create alice --note laptop --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			if err := store.CheckName(args[0]); err != nil {
				return &usageError{fmt.Errorf("tenant %w", err)}
			}
			token, err := st.CreateToken(cmd.Context(), args[0], note, int64(cfg.Limits.Quota), int64(cfg.Limits.MaxVMs))
			if err != nil {
				return err
			}
			if a.json {
				return a.print(map[string]string{"tenant": args[0], "token": token})
			}
			fmt.Fprintln(a.err, "The token is shown this once; give it to the tenant by a safe way.")
			_, err = fmt.Fprintln(a.out, token)
			return err
		},
	}
	c.Flags().StringVar(&note, "note", "", "what the token is for")
	return c
}

type tokenLine struct {
	ID       int64      `json:"id"`
	Tenant   string     `json:"tenant"`
	Note     string     `json:"note"`
	Created  time.Time  `json:"created"`
	LastUsed *time.Time `json:"last_used"`
	Revoked  *time.Time `json:"revoked"`
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list [TENANT]", Short: "List tokens", Example: "  uvbond-server token list\n  uvbond-server token list alice --json",
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			tokens, err := st.Tokens(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			lines := []tokenLine{}
			for _, t := range tokens {
				lines = append(lines, tokenLine{t.ID, t.Tenant, t.Note, t.Created, optional(t.LastUsed), optional(t.Revoked)})
			}
			if a.json {
				return a.print(map[string]any{"tokens": lines})
			}
			return table(a.out, "ID\tTENANT\tNOTE\tCREATED\tLAST USED\tREVOKED", len(lines), func(i int) string {
				l := lines[i]
				return fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s", l.ID, l.Tenant, l.Note, day(&l.Created), day(l.LastUsed), day(l.Revoked))
			})
		},
	}
}

func (a *app) tokenRevoke() *cobra.Command {
	var id int64
	var all bool
	c := &cobra.Command{
		Use: "revoke TENANT", Short: "End one token of a tenant, or all of them", Args: exactly(1),
		Example: "  uvbond-server token revoke alice --id 3\n  uvbond-server token revoke alice --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (id != 0) {
				return &usageError{errors.New("say --id N (see token list) or --all")}
			}
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			n, err := st.RevokeTokens(cmd.Context(), args[0], id)
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("tenant %s has no such token that is still good; see uvbond-server token list %s", args[0], args[0])
			}
			if a.json {
				return a.print(map[string]int64{"revoked": n})
			}
			_, err = fmt.Fprintf(a.out, "%d token(s) of %s revoked\n", n, args[0])
			return err
		},
	}
	c.Flags().Int64Var(&id, "id", 0, "the token's number")
	c.Flags().BoolVar(&all, "all", false, "all tokens of the tenant")
	return c
}

func (a *app) tenant() *cobra.Command {
	return group("tenant", "List tenants and set their quota", a.tenantList(), a.tenantQuota())
}

type tenantLine struct {
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	QuotaBytes int64     `json:"quota_bytes"`
	UsedBytes  int64     `json:"used_bytes"`
	Images     int64     `json:"images"`
	MaxVMs     int64     `json:"max_vms"`
	VMs        int64     `json:"vms"`
}

func (a *app) tenantList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tenants and what they use", Args: exactly(0), Example: "  uvbond-server tenant list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			tenants, err := st.Tenants(cmd.Context())
			if err != nil {
				return err
			}
			lines := []tenantLine{}
			for _, t := range tenants {
				lines = append(lines, tenantLine{t.Name, t.Created, t.QuotaBytes, t.UsedBytes, t.Images, t.MaxVMs, t.VMs})
			}
			if a.json {
				return a.print(map[string]any{"tenants": lines})
			}
			return table(a.out, "TENANT\tCREATED\tUSED\tQUOTA\tIMAGES\tVMS\tMAX VMS", len(lines), func(i int) string {
				l := lines[i]
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%d\t%d", l.Name, day(&l.Created), config.Size(l.UsedBytes), config.Size(l.QuotaBytes), l.Images, l.VMs, l.MaxVMs)
			})
		},
	}
}

func (a *app) tenantQuota() *cobra.Command {
	var size string
	var maxVMs int64
	c := &cobra.Command{
		Use: "quota TENANT", Short: "Set what a tenant may use", Args: exactly(1),
		Long:    "Sets a tenant's limits. What is stored already stays; new uploads and VMs are measured by them.",
		Example: "  uvbond-server tenant quota alice --size 500GiB\n  uvbond-server tenant quota alice --vms 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes := int64(-1)
			if size != "" {
				n, err := config.ParseSize(size)
				if err != nil {
					return &usageError{err}
				}
				bytes = int64(n)
			}
			if bytes < 0 && maxVMs < 0 {
				return &usageError{errors.New("say --size, --vms or both")}
			}
			_, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			err = st.SetLimits(cmd.Context(), args[0], bytes, maxVMs)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("no tenant %s; see uvbond-server tenant list", args[0])
			} else if err != nil {
				return err
			}
			if a.json {
				return a.print(map[string]string{"tenant": args[0], "result": "done"})
			}
			_, err = fmt.Fprintf(a.out, "quota of %s set\n", args[0])
			return err
		},
	}
	c.Flags().StringVar(&size, "size", "", "bytes of all images together, for example 500GiB")
	c.Flags().Int64Var(&maxVMs, "vms", -1, "number of VMs")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func day(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func table(w io.Writer, head string, n int, line func(int) string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, head)
	for i := range n {
		fmt.Fprintln(t, line(i))
	}
	return t.Flush()
}
