package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/uvbond/uvbond/tenant/fail"
)

// table writes aligned columns.
func table(w io.Writer, head []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush()
}

// pairs writes "name: value" lines, aligned.
func pairs(w io.Writer, list ...string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i+1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", list[i], list[i+1])
		}
	}
	_ = t.Flush()
}

func clock(sec int64) string {
	if sec == 0 {
		return "-"
	}
	return time.Unix(sec, 0).Local().Format(time.DateTime)
}

// counted writes "1 disk" or "3 disks".
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

var units = []struct {
	name string
	size uint64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// bytesText writes a size in binary units.
func bytesText(n uint64) string {
	for _, u := range units {
		if n >= u.size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(u.size), 'f', 1, 64), ".0") + " " + u.name
		}
	}
	return strconv.FormatUint(n, 10) + " B"
}

// parseBytes reads sizes such as 1GiB, 512MiB, 2G. A bare number is refused: it is
// never clear what it counts.
func parseBytes(text string) (uint64, error) {
	bad := fail.New(fail.Usage, "give a whole number and a unit, for example 1GiB or 512MiB", "%q is not a size", text)
	s := strings.TrimSpace(text)
	for _, u := range units {
		for _, suffix := range []string{u.name, u.name[:1], strings.ToLower(u.name), strings.ToLower(u.name[:1])} {
			digits, ok := strings.CutSuffix(s, suffix)
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 32)
			if err != nil || n == 0 || n > (1<<62)/u.size {
				return 0, bad
			}
			return n * u.size, nil
		}
	}
	return 0, bad
}

// short is the beginning of a nonce, as lists show it.
func short(nonce []byte) string { return hex.EncodeToString(nonce[:min(6, len(nonce))]) }

func (a *app) strong(s string) string {
	if a.colour {
		return "\033[1;31m" + s + "\033[0m"
	}
	return s
}
