package automaton

import (
	"strconv"
	"time"
)

// bound is an integer from -2^63 to 2^64-1: all that QMP can carry.
type bound struct {
	negative  bool
	magnitude uint64
}

// parseBound reads decimal digits with an optional minus sign, nothing else.
func parseBound(s string) (bound, bool) {
	digits, negative := s, false
	if len(s) > 1 && s[0] == '-' {
		digits, negative = s[1:], true
	}
	if digits == "" || !isDigit(digits[0]) {
		return bound{}, false
	}
	var m uint64
	if len(digits) < 19 { // nearly all; without room for an overflow
		for i := range len(digits) {
			if !isDigit(digits[i]) {
				return bound{}, false
			}
			m = 10*m + uint64(digits[i]-'0')
		}
	} else {
		var err error
		if m, err = strconv.ParseUint(digits, 10, 64); err != nil {
			return bound{}, false
		}
	}
	return bound{negative && m != 0, m}, !negative || m <= 1<<63
}

func (b bound) less(o bound) bool {
	switch {
	case b.negative != o.negative:
		return b.negative
	case b.negative:
		return b.magnitude > o.magnitude
	default:
		return b.magnitude < o.magnitude
	}
}

func (b bound) scale(factor uint64) (bound, bool) {
	product := b.magnitude * factor
	ok := product/factor == b.magnitude && (!b.negative || product <= 1<<63)
	return bound{b.negative, product}, ok
}

func (b bound) String() string {
	s := strconv.FormatUint(b.magnitude, 10)
	if b.negative {
		return "-" + s
	}
	return s
}

// unitFamily is what an integer was written as; it is printed the same way.
type unitFamily uint8

const (
	unitNone unitFamily = iota
	unitSize            // bytes
	unitTime            // milliseconds
)

type unit struct {
	name   string
	family unitFamily
	factor uint64
}

// units are sorted by factor within a family, largest first.
var units = []unit{
	{"TiB", unitSize, 1 << 40}, {"GiB", unitSize, 1 << 30}, {"MiB", unitSize, 1 << 20}, {"KiB", unitSize, 1 << 10}, {"B", unitSize, 1},
	{"h", unitTime, 3600_000}, {"min", unitTime, 60_000}, {"s", unitTime, 1000}, {"ms", unitTime, 1},
}

func unitNames() []string {
	var names []string
	for _, u := range units {
		names = append(names, u.name)
	}
	return names
}

func findUnit(name string) (unit, bool) {
	if name == "" {
		return unit{"", unitNone, 1}, true
	}
	for _, u := range units {
		if u.name == name {
			return u, true
		}
	}
	return unit{}, false
}

// format writes b in the largest unit of the family that divides it.
func (b bound) format(family unitFamily) string {
	for _, u := range units {
		if u.family == family && b.magnitude%u.factor == 0 && (b.magnitude != 0 || u.factor == 1) {
			return bound{b.negative, b.magnitude / u.factor}.String() + u.name
		}
	}
	return b.String()
}

func formatDuration(d time.Duration) string {
	return bound{magnitude: uint64(d.Milliseconds())}.format(unitTime)
}
