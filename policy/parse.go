package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Split returns the rules of a policy and its automata as a text that package
// automaton reads, places included. It does not compare the two: Parse does.
func Split(text string) (rules []*Rule, automata string, err error) { return rulesOf(text) }

// rulesOf takes the rules from the beginning of a text. What follows them comes
// back with the rules blanked, so that places in it stay what they are.
func rulesOf(text string) (rules []*Rule, rest string, err error) {
	end := 0
	for {
		at := skip(text, end)
		if !startsRule(text[at:]) {
			return rules, blank(text[:end]) + text[end:], nil
		}
		stop := end
		words, stop, err := words(text, at)
		if err != nil {
			return nil, "", err
		}
		r, err := parseRule(words[1:])
		if err != nil {
			return nil, "", fmt.Errorf("policy:%d: rule: %w", line(text, at), err)
		}
		if rules, end = append(rules, r), stop; len(rules) > MaxAutomata {
			return nil, "", fmt.Errorf("policy: more than %d rules", MaxAutomata)
		}
	}
}

// skip passes white space and comments.
func skip(text string, at int) int {
	for at < len(text) {
		switch {
		case strings.ContainsRune(" \t\r\n", rune(text[at])):
			at++
		case text[at] == '#':
			n := strings.IndexByte(text[at:], '\n')
			if n < 0 {
				return len(text)
			}
			at += n
		default:
			return at
		}
	}
	return at
}

func startsRule(s string) bool {
	rest, ok := strings.CutPrefix(s, "rule")
	return ok && (rest == "" || strings.ContainsRune(" \t\r\n#", rune(rest[0])))
}

// maxWords bounds one rule; it is more than the largest one needs.
const maxWords = 512

// words reads up to the semicolon. A comma and the equals sign are words.
func words(text string, at int) (out []string, end int, err error) {
	start := at
	for at = skip(text, at); at < len(text); at = skip(text, at) {
		n := strings.IndexAny(text[at:], " \t\r\n#;=,")
		switch {
		case text[at] == ';':
			return out, at + 1, nil
		case n == 0:
			n = 1
		case n < 0:
			n = len(text) - at
		}
		if out = append(out, text[at:at+n]); len(out) > maxWords {
			return nil, 0, fmt.Errorf("policy:%d: rule: more than %d words", line(text, start), maxWords)
		}
		at += n
	}
	return nil, 0, fmt.Errorf("policy:%d: rule: the `;` at its end is missing", line(text, start))
}

func line(text string, at int) int { return 1 + strings.Count(text[:at], "\n") }

// blank replaces all but line ends.
func blank(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return ' '
	}, s)
}

func parseRule(words []string) (*Rule, error) {
	r := &Rule{}
	p := &ruleParser{words: words}
	for {
		name := p.next()
		if !nameForm.MatchString(name) {
			return nil, fmt.Errorf("expected the name of an automaton, found %s", found(name))
		}
		if slices.Contains(r.Names, name) {
			return nil, fmt.Errorf("%s is named twice", found(name))
		}
		r.Names = append(r.Names, name)
		sign := p.next()
		if sign == "=" {
			break
		}
		if sign != "," {
			return nil, fmt.Errorf("expected `,` or `=` after a name, found %s", found(sign))
		}
	}
	if len(p.words) == 0 {
		return nil, fmt.Errorf("it says nothing; write limit, from, until, window or pause")
	}
	seen := map[string]bool{}
	for len(p.words) > 0 {
		word := p.next()
		if seen[word] && word != "limit" && word != "window" {
			return nil, fmt.Errorf("%s is there twice", found(word))
		}
		seen[word] = true
		if err := p.clause(r, word); err != nil {
			return nil, err
		}
	}
	if r.From != 0 && r.Until != 0 && r.Until <= r.From {
		return nil, fmt.Errorf("until is not after from")
	}
	return r, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)

type ruleParser struct{ words []string }

// next takes a word; "" behind the last.
func (p *ruleParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *ruleParser) clause(r *Rule, word string) (err error) {
	switch word {
	case "limit":
		var l Limit
		if l.Uses, err = uses(p.next()); err != nil {
			return err
		}
		if w := p.next(); w != "per" {
			return fmt.Errorf("expected `per` after limit %d, found %s", l.Uses, found(w))
		}
		if l.Period, err = ParseDuration(p.next(), MaxPeriod); err != nil {
			return err
		}
		if r.Limits = append(r.Limits, l); len(r.Limits) > MaxLimits {
			return fmt.Errorf("more than %d limits", MaxLimits)
		}
	case "from":
		r.From, err = instant(p.next())
	case "until":
		r.Until, err = instant(p.next())
	case "pause":
		r.Pause, err = ParseDuration(p.next(), MaxPause)
	case "window":
		return p.window(r)
	default:
		return fmt.Errorf("expected limit, from, until, window or pause, found %s", found(word))
	}
	return err
}

func (p *ruleParser) window(r *Rule) error {
	text := p.next()
	if strings.Contains(text, ":") || text == "" {
		return addWindow(r, "", text)
	}
	days := text
	for len(p.words) > 0 && p.words[0] == "," {
		p.next()
		days += "," + p.next()
	}
	return addWindow(r, days, p.next())
}

func addWindow(r *Rule, days, hours string) error {
	w, err := makeWindow(days, hours)
	if err != nil {
		return err
	}
	if r.Windows = append(r.Windows, w); len(r.Windows) > MaxWindows {
		return fmt.Errorf("more than %d windows", MaxWindows)
	}
	return nil
}

func uses(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxUses || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("limit is %s, want 1 to %d", found(s), MaxUses)
	}
	return n, nil
}

func instant(s string) (int64, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || !strings.HasSuffix(s, "Z") || t.Nanosecond() != 0 || t.Unix() <= 0 || t.Year() > 9999 {
		return 0, fmt.Errorf("%s is not a time like 2027-01-31T18:00:00Z", found(s))
	}
	return t.Unix(), nil
}

// ParseDuration reads a number and a unit, s, min, h or day, at least 1s and at
// most most.
func ParseDuration(s string, most time.Duration) (time.Duration, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n < 1 || time.Duration(n) > most/u.size || strconv.FormatUint(n, 10) != digits {
			break
		}
		return time.Duration(n) * u.size, nil
	}
	return 0, fmt.Errorf("%s is not a time like 90s, 10min, 24h or 7day, at most %s", found(s), duration(most))
}

// ParseWindow reads hours, such as 08:00-18:00, with days before them or not:
// "mon-fri 08:00-18:00", "sat,sun 00:00-24:00".
func ParseWindow(s string) (Window, error) {
	days, hours, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok {
		days, hours = "", days
	}
	return makeWindow(days, strings.TrimSpace(hours))
}

func makeWindow(days, hours string) (w Window, err error) {
	w.Days = everyDay
	if days != "" {
		if w.Days, err = parseDays(days); err != nil {
			return w, err
		}
	}
	from, to, ok := strings.Cut(hours, "-")
	var good, fine bool
	w.From, good = minutes(from)
	w.To, fine = minutes(to)
	if !ok || !good || !fine || w.From == 24*60 || w.From == w.To {
		return w, fmt.Errorf("%s are not hours like 08:00-18:00", found(hours))
	}
	return w, nil
}

func parseDays(s string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		i, j := slices.Index(dayNames[:], first), slices.Index(dayNames[:], last)
		if i < 0 || j < 0 {
			return days, fmt.Errorf("%s are not days like mon-fri or sat,sun", found(s))
		}
		for ; ; i = (i + 1) % 7 {
			days[i] = true
			if i == j {
				break
			}
		}
	}
	return days, nil
}

var clockForm = regexp.MustCompile(`^([01][0-9]|2[0-4]):[0-5][0-9]$`)

func minutes(s string) (int, bool) {
	if !clockForm.MatchString(s) {
		return 0, false
	}
	n := 60*(10*int(s[0]-'0')+int(s[1]-'0')) + 10*int(s[3]-'0') + int(s[4]-'0')
	return n, n <= 24*60
}

// found quotes a word of the text for an error, shortened.
func found(s string) string {
	const most = 40
	if s == "" {
		return "nothing"
	}
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
