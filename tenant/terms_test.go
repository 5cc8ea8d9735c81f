package tenant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/policy"
)

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func TestTerms(t *testing.T) {
	for name, tc := range map[string]struct {
		terms Terms
		want  string // as described, or an error after !
	}{
		"plain":       {Terms{Commands: []string{"status", "pause"}}, "status; pause"},
		"observe":     {Terms{Commands: []string{"observe"}}, "status"},
		"none":        {Terms{Commands: []string{"none"}}, ""},
		"maintain":    {Terms{Commands: []string{"maintain"}}, "status; pause; resume; reset; shutdown"},
		"both":        {Terms{Commands: []string{"maintain", "poweroff", "status"}}, "status; pause; resume; reset; shutdown; poweroff"},
		"limit":       {Terms{Commands: []string{"maintain"}, Limits: []string{"3/day"}}, "status; pause, resume, reset, shutdown (at most 3 in 1day)"},
		"looking":     {Terms{Commands: []string{"status"}, Limits: []string{"100/h"}}, "status (at most 100 in 1h)"},
		"one command": {Terms{Commands: []string{"pause", "reset"}, Limits: []string{"reset=1/12h", "5/10m"}}, "pause (at most 5 in 10min); reset (at most 1 in 12h, at most 5 in 10min)"},
		"weeks":       {Terms{Commands: []string{"reset"}, Limits: []string{"2/2w"}}, "reset (at most 2 in 14day)"},
		"all": {Terms{Commands: []string{"maintain"}, Limits: []string{"3/day"}, From: "2026-12-02", Until: "2027-01-31T18:00:00+01:00", Windows: []string{"mon-fri 08:00-18:00"}, MaxPause: "10m"},
			"status (from 2026-12-02T00:00:00Z, until 2027-01-31T17:00:00Z, mon-fri 08:00-18:00 UTC); " +
				"pause (at most 3 in 1day, from 2026-12-02T00:00:00Z, until 2027-01-31T17:00:00Z, mon-fri 08:00-18:00 UTC, paused for 10min at most); " +
				"resume, reset, shutdown (at most 3 in 1day, from 2026-12-02T00:00:00Z, until 2027-01-31T17:00:00Z, mon-fri 08:00-18:00 UTC)"},
		"from now on":     {Terms{Commands: []string{"reset"}, Until: "12h"}, "reset (until 2026-12-02T00:00:00Z)"},
		"unknown":         {Terms{Commands: []string{"fly"}}, "!cannot be allowed fly"},
		"owner's only":    {Terms{Commands: []string{"delete"}}, "!cannot be allowed delete"},
		"none and more":   {Terms{Commands: []string{"none", "pause"}}, "!cannot be allowed"},
		"no such limit":   {Terms{Commands: []string{"pause"}, Limits: []string{"often"}}, "!--limit often"},
		"zero":            {Terms{Commands: []string{"pause"}, Limits: []string{"0/day"}}, "!number from 1"},
		"other's limit":   {Terms{Commands: []string{"pause"}, Limits: []string{"reset=1/day"}}, "!which is not allowed"},
		"bad period":      {Terms{Commands: []string{"pause"}, Limits: []string{"1/fortnight"}}, "!is not a time like"},
		"bad date":        {Terms{Commands: []string{"pause"}, Until: "tomorrow"}, "!--until"},
		"over":            {Terms{Commands: []string{"pause"}, Until: "2026-12-01"}, "!is over"},
		"before it began": {Terms{Commands: []string{"pause"}, From: "2027-02-01", Until: "2027-01-01"}, "!not after"},
		"bad window":      {Terms{Commands: []string{"pause"}, Windows: []string{"at night"}}, "!--window"},
		"bad pause":       {Terms{Commands: []string{"pause"}, MaxPause: "a while"}, "!--max-pause"},
		"pause of reset":  {Terms{Commands: []string{"reset"}, MaxPause: "5min"}, "!--max-pause is about pause"},
	} {
		text, err := tc.terms.Text(noon)
		if want, refused := strings.CutPrefix(tc.want, "!"); refused {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p, err := policy.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.Describe(), "; "); got != tc.want {
			t.Errorf("%s:\nhave %s\nwant %s", name, got, tc.want)
		}
	}
}

func TestTermsFromFile(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "policy.uva")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "rule nap = limit 1 per 1day pause 5min ;\nautomaton nap = stop query-status* cont? ;\n"
	if text, err := (Terms{File: write(good)}).Text(noon); err != nil || text != good {
		t.Errorf("%q, %v", text, err)
	}
	for text, want := range map[string]string{
		"automaton a = stopp ;":                            "did you mean",
		"rule b = limit 1 per 1day ; automaton a = stop ;": "no such automaton",
		"# " + strings.Repeat("x", 70000):                  "larger than",
	} {
		if _, err := (Terms{File: write(text)}).Text(noon); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	if _, err := (Terms{File: write(good), Until: "1day"}).Text(noon); err == nil {
		t.Error("a file and a flag")
	}
	if _, err := (Terms{File: filepath.Join(t.TempDir(), "none")}).Text(noon); err == nil {
		t.Error("a file that is not there")
	}
}
