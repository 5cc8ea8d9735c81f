package learn

import (
	"fmt"
	"math/big"
	"strings"
)

// The integers that the language has.
var (
	lowest  = new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 63))
	highest = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(1))
)

// numbers finds the range of numbers that differ. Where each was seen once the
// next will likely be another one: the range then is wider at both ends by the
// mean distance of what was seen, and does not change sign by that.
func numbers(at string, known []string, total int) (text, why string) {
	var low, high *big.Int
	for _, t := range known {
		n, ok := new(big.Int).SetString(t, 10)
		if !ok || n.Cmp(lowest) < 0 || n.Cmp(highest) > 0 {
			return "number", "not all are integers: " + few(known)
		}
		if low == nil || n.Cmp(low) < 0 {
			low = n
		}
		if high == nil || n.Cmp(high) > 0 {
			high = n
		}
	}
	why = fmt.Sprintf("%d values in %d, from %s to %s", len(known), total, low, high)
	if len(known) == total && total > 1 {
		gap := new(big.Int).Sub(high, low)
		gap.Div(gap, big.NewInt(int64(total-1)))
		wide, wider := new(big.Int).Sub(low, gap), new(big.Int).Add(high, gap)
		if low.Sign() >= 0 && wide.Sign() < 0 {
			wide.SetInt64(0)
		}
		if high.Sign() <= 0 && wider.Sign() > 0 {
			wider.SetInt64(0)
		}
		low, high = clamp(wide), clamp(wider)
		why += ", each once: wider by their mean distance, " + gap.String()
	}
	return integer(at, low) + ".." + integer(at, high), why
}

func clamp(n *big.Int) *big.Int {
	switch {
	case n.Cmp(lowest) < 0:
		return lowest
	case n.Cmp(highest) > 0:
		return highest
	}
	return n
}

// integer writes an integer, in units where it is a plain number of bytes.
func integer(at string, n *big.Int) string {
	if n.Cmp(lowest) < 0 || n.Cmp(highest) > 0 {
		return "number"
	}
	key := at[strings.LastIndexByte(at, '.')+1:]
	if n.IsUint64() && (key == "value" || strings.Contains(key, "size") || strings.Contains(key, "memory")) {
		v := n.Uint64()
		switch {
		case v == 0 || v > 1<<50:
		case v%(1<<30) == 0:
			return fmt.Sprintf("%dGiB", v>>30)
		case v%(1<<20) == 0:
			return fmt.Sprintf("%dMiB", v>>20)
		}
	}
	return n.String()
}
