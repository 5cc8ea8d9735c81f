package tenant

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Terms say what the owner allows others, as a person writes it.
type Terms struct {
	Commands []string // management commands and ready-made sets
	Limits   []string // [COMMAND=]N/PERIOD
	From     string   // a date, a time, or a time from now
	Until    string
	Windows  []string // "08:00-18:00" or "mon-fri 08:00-18:00", UTC
	MaxPause string
	File     string // a policy's text; nothing else is given then
}

const allowHint = "operators may be allowed: status, pause, resume, reset, shutdown, poweroff; or observe, maintain, none"

// Text returns the policy. It is what is sealed: a person can read it first.
func (t Terms) Text(now time.Time) (string, error) {
	if t.File != "" {
		return t.read()
	}
	names, err := automata.Expand(t.Commands...)
	var text string
	if err == nil {
		text, err = automata.Policy(names...)
	}
	if err != nil {
		return "", fail.Wrap(err, fail.Usage, allowHint, "operators cannot be allowed %s", strings.Join(t.Commands, ","))
	}
	rules, err := t.rules(names, now)
	if err != nil {
		return "", err
	}
	text = policy.Compose(rules, text)
	if _, err := policy.Parse(text); err != nil {
		return "", fail.Wrap(err, fail.Usage, "", "these terms make no policy")
	}
	return text, nil
}

// read takes the policy from a file and looks for what the gate would refuse.
func (t Terms) read() (string, error) {
	rest := t
	rest.File = ""
	if !reflect.DeepEqual(rest, Terms{}) {
		return "", fail.New(fail.Usage, "write the rules into the file", "with a file no commands and no limits are given")
	}
	raw, err := os.ReadFile(t.File)
	if err != nil {
		return "", err
	}
	if len(raw) > bond.MaxPolicy {
		return "", fail.New(fail.Usage, "", "%s is larger than a policy may be, %d bytes", t.File, bond.MaxPolicy)
	}
	p, err := policy.Parse(string(raw))
	if err != nil {
		return "", fail.Wrap(err, fail.Usage, "the language is in docs/automata.md", "%s", t.File)
	}
	if found := recorded.Newest().Check(p.File()); len(found) > 0 {
		return "", fail.New(fail.Usage, "", "%s: %s", t.File, found[0])
	}
	return string(raw), nil
}

// rules gives each automaton its rule; equal ones become one.
func (t Terms) rules(names []string, now time.Time) ([]*policy.Rule, error) {
	common, err := t.common(now)
	if err != nil {
		return nil, err
	}
	limits, err := t.limits(names)
	if err != nil {
		return nil, err
	}
	var rules []*policy.Rule
	for _, name := range names {
		r := *common
		r.Limits = limits[name]
		if name == Pause && t.MaxPause != "" {
			if r.Pause, err = period(t.MaxPause, policy.MaxPause); err != nil {
				return nil, fail.Wrap(err, fail.Usage, "for example --max-pause 10min", "--max-pause")
			}
		}
		if reflect.DeepEqual(r, policy.Rule{}) {
			continue
		}
		n := slices.IndexFunc(rules, func(o *policy.Rule) bool {
			same := *o
			same.Names = nil
			return reflect.DeepEqual(same, r)
		})
		if n < 0 {
			n, rules = len(rules), append(rules, &r)
		}
		rules[n].Names = append(rules[n].Names, name)
	}
	if t.MaxPause != "" && !slices.Contains(names, Pause) {
		return nil, fail.New(fail.Usage, "allow pause too, or leave --max-pause out", "--max-pause is about pause, which is not allowed")
	}
	return rules, nil
}

// common is what holds for every automaton.
func (t Terms) common(now time.Time) (*policy.Rule, error) {
	const hint = "for example 2027-01-31, 2027-01-31T18:00:00Z, or from now on: 12h, 30day"
	r := &policy.Rule{}
	var err error
	if r.From, err = instant(t.From, now); err != nil {
		return nil, fail.Wrap(err, fail.Usage, hint, "--from")
	}
	if r.Until, err = instant(t.Until, now); err != nil {
		return nil, fail.Wrap(err, fail.Usage, hint, "--until")
	}
	if r.Until != 0 && (r.Until <= now.Unix() || r.Until <= r.From) {
		return nil, fail.New(fail.Usage, hint, "--until %s is over, or not after --from", t.Until)
	}
	for _, text := range t.Windows {
		w, err := policy.ParseWindow(text)
		if err != nil {
			return nil, fail.Wrap(err, fail.Usage, `for example --window 08:00-18:00 or --window "mon-fri 08:00-18:00"; hours are UTC`, "--window")
		}
		r.Windows = append(r.Windows, w)
	}
	return r, nil
}

// limits gives each automaton its own. Those without a command's name are for all
// that change the VM: looking is not worth counting, unless nothing else is allowed.
func (t Terms) limits(names []string) (map[string][]policy.Limit, error) {
	const hint = "for example --limit 3/day, --limit 1/10min, or --limit reset=1/12h for one command"
	out := map[string][]policy.Limit{}
	for _, text := range t.Limits {
		l, err := parseLimit(text)
		if err != nil {
			return nil, fail.Wrap(err, fail.Usage, hint, "--limit %s", text)
		}
		of, _, one := strings.Cut(text, "=")
		if one && !slices.Contains(names, of) {
			return nil, fail.New(fail.Usage, hint, "--limit is about %q, which is not allowed", of)
		}
		for _, name := range names {
			if name == of || !one && (name != Status || len(names) == 1) {
				out[name] = append(out[name], l)
			}
		}
	}
	return out, nil
}

func parseLimit(text string) (l policy.Limit, err error) {
	if _, rest, ok := strings.Cut(text, "="); ok {
		text = rest
	}
	uses, per, ok := strings.Cut(text, "/")
	if _, err := fmt.Sscanf(uses, "%d", &l.Uses); !ok || err != nil || fmt.Sprint(l.Uses) != uses || l.Uses < 1 || l.Uses > policy.MaxUses {
		return l, fmt.Errorf("want a number from 1 to %d, a slash, and a time", policy.MaxUses)
	}
	if per == "" || per[0] < '0' || per[0] > '9' {
		per = "1" + per
	}
	l.Period, err = period(per, policy.MaxPeriod)
	return l, err
}

// period reads what policies take, and the short forms that people write.
func period(text string, most time.Duration) (time.Duration, error) {
	number := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
	switch unit := text[len(number):]; unit {
	case "m":
		text = number + "min"
	case "d", "days":
		text = number + "day"
	case "w", "week":
		var n int
		if _, err := fmt.Sscanf(number, "%d", &n); err == nil {
			text = fmt.Sprintf("%dday", 7*n)
		}
	}
	return policy.ParseDuration(text, most)
}

// instant reads a date (its beginning, UTC), a time, or a time from now.
func instant(text string, now time.Time) (int64, error) {
	if text == "" {
		return 0, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t.Unix(), nil
		}
	}
	d, err := period(text, 20*policy.MaxPeriod)
	if err != nil {
		return 0, fmt.Errorf("%q is no date, no time and no time from now", text)
	}
	return now.Add(d).Unix(), nil
}
