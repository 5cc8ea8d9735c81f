package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as 100GiB, 512MiB, 2TB or a plain number.
type Size int64

var units = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseSize reads a Size.
func ParseSize(text string) (Size, error) {
	number, factor := strings.TrimSpace(text), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size %q: write a number and a unit, for example 100GiB", text)
	}
	if n > math.MaxInt64/factor {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return Size(n * factor), nil
}

// UnmarshalText reads a Size from a configuration file.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := ParseSize(string(text))
	if err == nil {
		*s = n
	}
	return err
}

// String writes the size in the largest binary unit that loses nothing worth
// reading.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if f := units[i].factor; int64(s) >= f {
			if int64(s)%f == 0 {
				return fmt.Sprintf("%d%s", int64(s)/f, units[i].suffix)
			}
			return fmt.Sprintf("%.1f%s", float64(s)/float64(f), units[i].suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// Duration is a time.Duration written as 30s, 2m or 168h.
type Duration time.Duration

// UnmarshalText reads a Duration from a configuration file.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("duration %q: write for example 30s, 10m or 168h", text)
	}
	*d = Duration(v)
	return nil
}

// D is the value as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }
