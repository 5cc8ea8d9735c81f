package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of a policy's text.
const (
	MaxAutomata = 32 // in one policy
	MaxLimits   = 4  // of one rule
	MaxWindows  = 16 // of one rule
	MaxUses     = 1000
	MaxPeriod   = 366 * Day
	MaxPause    = 30 * Day
	Day         = 24 * time.Hour
)

// Rule says when, how often and for how long the automata that it names may be
// used. The zero value restricts nothing.
type Rule struct {
	Names   []string // of the automata, in the order of the text
	Limits  []Limit  // each automaton is counted by itself
	From    int64    // Unix seconds, included; 0: none
	Until   int64    // Unix seconds, not included; 0: none
	Windows []Window // hours of the week, any of them; none: always
	// Pause is how long the VM may stay paused before the hypervisor resumes it;
	// 0: for ever.
	Pause time.Duration
}

// Limit is at most Uses in any stretch of time of length Period.
type Limit struct {
	Uses   int
	Period time.Duration // whole seconds
}

// Window is a time of the day on some days of the week, in UTC.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes of the day, To is not included; where it is not after From it is on the next day
}

// OutsideError says that a rule does not allow anything at this time.
type OutsideError struct{ Reason string }

func (e *OutsideError) Error() string { return e.Reason }

// UsedUpError says that an automaton was used as often as its rule allows.
type UsedUpError struct {
	Name  string
	Limit Limit
	Again int64 // Unix seconds: when it may be used again
}

func (e *UsedUpError) Error() string {
	often := "once"
	if e.Limit.Uses > 1 {
		often = fmt.Sprintf("%d times", e.Limit.Uses)
	}
	return fmt.Sprintf("%s was used %s within %s, its limit; it may be used again at %s", e.Name, often, duration(e.Limit.Period), stamp(e.Again))
}

// Open tells whether the rule allows anything at now (Unix seconds). Errors are
// *OutsideError.
func (r *Rule) Open(now int64) error {
	switch {
	case r.From != 0 && now < r.From:
		return &OutsideError{"not allowed before " + stamp(r.From)}
	case r.Until != 0 && now >= r.Until:
		return &OutsideError{"not allowed any more, only until " + stamp(r.Until)}
	case len(r.Windows) == 0:
		return nil
	}
	var all []string
	for _, w := range r.Windows {
		if w.open(now) {
			return nil
		}
		all = append(all, w.String())
	}
	return &OutsideError{"not allowed now, only " + strings.Join(all, " and ") + " (UTC)"}
}

func (w Window) open(now int64) bool {
	t := time.Unix(now, 0).UTC()
	minute, today := 60*t.Hour()+t.Minute(), t.Weekday()
	if w.To > w.From {
		return w.Days[today] && minute >= w.From && minute < w.To
	}
	return w.Days[today] && minute >= w.From || w.Days[(today+6)%7] && minute < w.To
}

// Allows tells whether one more use at now is within the limits, after those at
// times (Unix seconds, ascending). Errors are *UsedUpError.
func (r *Rule) Allows(name string, times []int64, now int64) error {
	for _, l := range r.Limits {
		since := now - int64(l.Period/time.Second)
		first, _ := slices.BinarySearch(times, since+1)
		if recent := times[first:]; len(recent) >= l.Uses {
			// The use that has to be forgotten first.
			return &UsedUpError{name, l, recent[len(recent)-l.Uses] + int64(l.Period/time.Second)}
		}
	}
	return nil
}

// Forget returns those of times that still count at now; no limit looks at more.
func (r *Rule) Forget(times []int64, now int64) []int64 {
	var longest time.Duration
	for _, l := range r.Limits {
		longest = max(longest, l.Period)
	}
	first, _ := slices.BinarySearch(times, now-int64(longest/time.Second)+1)
	times = times[first:]
	return times[max(0, len(times)-MaxUses):]
}

// String writes the rule in the language of policies, without its ending.
func (r *Rule) String() string {
	return "rule " + strings.Join(r.Names, ", ") + " = " + strings.Join(r.clauses(), " ") + " ;"
}

func (r *Rule) clauses() []string {
	var out []string
	for _, l := range r.Limits {
		out = append(out, fmt.Sprintf("limit %d per %s", l.Uses, duration(l.Period)))
	}
	if r.From != 0 {
		out = append(out, "from "+stamp(r.From))
	}
	if r.Until != 0 {
		out = append(out, "until "+stamp(r.Until))
	}
	for _, w := range r.Windows {
		out = append(out, "window "+w.String())
	}
	if r.Pause != 0 {
		out = append(out, "pause "+duration(r.Pause))
	}
	return out
}

// Describe says the rule in words, without the names; "" where it restricts nothing.
func (r *Rule) Describe() string {
	var out []string
	for _, l := range r.Limits {
		out = append(out, fmt.Sprintf("at most %d in %s", l.Uses, duration(l.Period)))
	}
	if r.From != 0 {
		out = append(out, "from "+stamp(r.From))
	}
	if r.Until != 0 {
		out = append(out, "until "+stamp(r.Until))
	}
	for _, w := range r.Windows {
		out = append(out, w.String()+" UTC")
	}
	if r.Pause != 0 {
		out = append(out, "paused for "+duration(r.Pause)+" at most")
	}
	return strings.Join(out, ", ")
}

func stamp(sec int64) string { return time.Unix(sec, 0).UTC().Format(time.RFC3339) }

// units are those of the automata's language, and days.
var units = []struct {
	name string
	size time.Duration
}{{"day", Day}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}

// duration writes whole seconds in the largest unit that fits.
func duration(d time.Duration) string {
	for _, u := range units {
		if d%u.size == 0 {
			return fmt.Sprintf("%d%s", d/u.size, u.name)
		}
	}
	return d.String()
}

var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// week is the order in which days are written.
var week = [7]time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday, time.Saturday, time.Sunday}

// String writes the window as in the language: days, where not all, and hours.
func (w Window) String() string {
	hours := fmt.Sprintf("%s-%s", clock(w.From), clock(w.To))
	if w.Days == everyDay {
		return hours
	}
	var parts []string
	for i := 0; i < len(week); i++ {
		if !w.Days[week[i]] {
			continue
		}
		j := i
		for j+1 < len(week) && w.Days[week[j+1]] {
			j++
		}
		name := dayNames[week[i]]
		if j > i {
			name += "-" + dayNames[week[j]]
		}
		parts, i = append(parts, name), j
	}
	return strings.Join(parts, ",") + " " + hours
}

var everyDay = [7]bool{true, true, true, true, true, true, true}

func clock(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }
