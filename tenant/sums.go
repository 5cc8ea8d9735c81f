package tenant

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
)

// maxSums is the size of the largest file of digests, in bytes.
const maxSums = 1 << 20

// ReadSHA256 reads a SHA-256: 64 hexadecimal digits, a file of digests, in which name is
// looked up, or a line of such a file.
func ReadSHA256(text, name string) (sum [32]byte, err error) {
	if text == "" {
		return sum, fail.New(fail.Usage, whereDigests, "--sha256 is missing: without it the host could give you any image")
	}
	given := strings.TrimSpace(text)
	if _, of := sumLine(given); of != "" { // a line of such a file
		if sum, err = findSum([]byte(given), name); err != nil {
			return sum, fail.New(fail.Usage, "give the 64 digits themselves; "+whereDigests, "--sha256: %v", err)
		}
		return sum, nil
	}
	if b, err := hex.DecodeString(given); err == nil && len(b) == len(sum) {
		return [32]byte(b), nil
	}
	f, err := os.Open(text)
	if err != nil && len(given) >= minDigits && onlyDigits.MatchString(given) {
		return sum, fail.New(fail.Usage, "copy it again, and see that it is the SHA-256", "--sha256 has %d hexadecimal digits, and a SHA-256 has 64", len(given))
	}
	if err != nil {
		return sum, fail.New(fail.Usage, "give 64 hexadecimal digits, or a file such as SHA256SUMS; "+whereDigests, "--sha256: %q is neither a SHA-256 nor a file", client.Printable(text))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSums+1))
	if err != nil {
		return sum, fail.Wrap(err, fail.Other, "give the right file", "cannot read the digests")
	}
	if len(b) > maxSums {
		return sum, fail.New(fail.Usage, "give the right file", "%s is larger than 1 MiB, and no list of digests", text)
	}
	if sum, err = findSum(b, name); err != nil {
		return sum, fail.New(fail.Usage, "give the 64 digits themselves; "+whereDigests, "%s: %v", text, err)
	}
	return sum, nil
}

// Lines of digests: of sha256sum, and of BSD's sha256 and sha256sum --tag.
var (
	gnuLine = regexp.MustCompile(`^([0-9a-fA-F]+) [ *](.+)$`)
	bsdLine = regexp.MustCompile(`^SHA([0-9]+) \((.+)\) = ([0-9a-fA-F]+)$`)
)

// minDigits is how many hexadecimal digits are taken for a digest that was not copied
// well, or for another one, and not for the name of a file: those of MD5.
const minDigits = 32

var onlyDigits = regexp.MustCompile(`^[0-9a-fA-F]+$`)

// findSum finds the SHA-256 of a name in the text of a file of digests. A name that
// is there twice with different digests is nobody's.
func findSum(text []byte, name string) (sum [32]byte, err error) {
	found, other := false, false
	for line := range bytes.Lines(text) {
		digits, of := sumLine(strings.TrimRight(string(line), "\r\n"))
		if of == "" || strings.TrimPrefix(of, "./") != name {
			continue
		}
		b, err := hex.DecodeString(digits)
		if err != nil || len(b) != len(sum) {
			other = true // SHA-512, or MD5
			continue
		}
		if found && [32]byte(b) != sum {
			return sum, fmt.Errorf("it has two different digests of %s", name)
		}
		sum, found = [32]byte(b), true
	}
	switch {
	case found:
		return sum, nil
	case other:
		return sum, fmt.Errorf("it has a digest of %s, and that is no SHA-256", name)
	}
	return sum, errors.New("it has no digest of " + name)
}

func sumLine(line string) (digits, name string) {
	if m := gnuLine.FindStringSubmatch(line); m != nil {
		return m[1], m[2]
	}
	if m := bsdLine.FindStringSubmatch(line); m != nil && m[1] == "256" {
		return m[3], m[2]
	}
	return "", ""
}
