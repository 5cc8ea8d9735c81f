package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
)

// TestRefusedAttempts: each attempt counts once, also one that has no record but the end of its session.
func TestRefusedAttempts(t *testing.T) {
	record := func(kind, session, verdict string) bond.AuditRecord {
		return bond.AuditRecord{Kind: kind, Fields: map[string]string{"session": session, "verdict": verdict}}
	}
	for _, c := range []struct {
		name    string
		records []bond.AuditRecord
		want    string
	}{
		{"nothing", []bond.AuditRecord{record("open", "1", ""), record("close", "1", "done")}, "nothing was refused"},
		{"by its end only", []bond.AuditRecord{record("open", "1", ""), record("call", "1", ""), record("close", "1", "refused")}, "1 refused attempt is marked"},
		{"by both", []bond.AuditRecord{record("open", "1", ""), {Kind: "refused"}, record("close", "1", "refused")}, "1 refused attempt is marked"},
		{"without a session", []bond.AuditRecord{{Kind: "refused"}, {Kind: "refused"}}, "2 refused attempts are marked"},
		{"after another", []bond.AuditRecord{{Kind: "refused"}, record("open", "2", ""), record("close", "2", "refused")}, "2 refused attempts are marked"},
	} {
		for i := range c.records {
			c.records[i].Seq = uint64(i + 1)
		}
		var out bytes.Buffer
		if err := (&app{out: &out}).writeAudit(&tenant.AuditLog{VM: "web1", Records: c.records}, false, true); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: want %q in\n%s", c.name, c.want, out.String())
		}
	}
}
