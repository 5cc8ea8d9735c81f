package luks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Limits of the JSON text; cryptsetup's own stays far below them.
const (
	maxDepth = 16
	maxNodes = 1 << 16
)

// decodeTree decodes one JSON object into maps, slices, strings, json.Number, bool
// and nil. Unlike encoding/json into structs it takes names as they are (no other
// letter case), and no name twice, so it cannot read another header than
// cryptsetup does.
func decodeTree(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the text is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	nodes := 0
	v, err := decodeValue(d, 0, &nodes)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("the text is not an object")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something after the object")
	}
	return m, nil
}

func decodeValue(d *json.Decoder, depth int, nodes *int) (any, error) {
	if *nodes++; *nodes > maxNodes {
		return nil, fmt.Errorf("more than %d values", maxNodes)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1, nodes)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	m := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder allows nothing else here
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("%s is there twice", clip(name))
		}
		if m[name], err = decodeValue(d, depth+1, nodes); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return m, err
}

// clip quotes text from a disk for a message.
func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// object is a JSON object under the name path. The first thing that is not as
// it should be is kept in *err; after that all methods return zero values.
type object struct {
	path string
	m    map[string]any
	err  *error
}

func (o object) refuse(name, format string, args ...any) {
	if *o.err == nil {
		*o.err = &RefusedError{Field: o.join(name), Reason: fmt.Sprintf(format, args...)}
	}
}

func (o object) refuseHint(name, reason, hint string) {
	if *o.err == nil {
		*o.err = &RefusedError{Field: o.join(name), Reason: reason, Hint: hint}
	}
}

func (o object) join(name string) string {
	switch {
	case name == "":
		return o.path
	case o.path == "":
		return printable(name)
	}
	return o.path + "." + printable(name)
}

func printable(name string) string {
	q := clip(name)
	return q[1 : len(q)-1]
}

// only refuses members that are not named.
func (o object) only(names ...string) {
	for _, k := range slices.Sorted(maps.Keys(o.m)) {
		if !slices.Contains(names, k) {
			o.refuse(k, "unknown member")
		}
	}
}

func member[T any](o object, name, what string) (v T) {
	if *o.err != nil {
		return v
	}
	raw, ok := o.m[name]
	if !ok {
		o.refuse(name, "missing")
		return v
	}
	if v, ok = raw.(T); !ok {
		o.refuse(name, "not %s", what)
	}
	return v
}

func (o object) text(name string) string { return member[string](o, name, "a string") }

func (o object) object(name string) object {
	return object{o.join(name), member[map[string]any](o, name, "an object"), o.err}
}

// number is a JSON number, whole and at most limit.
func (o object) number(name string, least, limit uint64) uint64 {
	n := member[json.Number](o, name, "a number")
	return o.unsigned(name, string(n), least, limit)
}

// decimal is a number in a string, which is how LUKS2 writes those of 64 bits.
func (o object) decimal(name string, limit uint64) uint64 {
	return o.unsigned(name, o.text(name), 0, limit)
}

func (o object) unsigned(name, digits string, least, limit uint64) uint64 {
	if *o.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || (len(digits) > 1 && digits[0] == '0') || digits[0] == '+' {
		o.refuse(name, "%s is not a whole number of 64 bits", clip(digits))
		return 0
	}
	if n < least || n > limit {
		o.refuse(name, "%d is not within %d and %d", n, least, limit)
		return 0
	}
	return n
}

// bytes is base64 with padding, of least to limit bytes.
func (o object) bytes(name string, least, limit int) []byte {
	s := o.text(name)
	if *o.err != nil {
		return nil
	}
	if len(s) > base64.StdEncoding.EncodedLen(limit) {
		o.refuse(name, "more than %d bytes", limit)
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		o.refuse(name, "not base64")
		return nil
	}
	if len(b) < least || len(b) > limit {
		o.refuse(name, "%d bytes, not within %d and %d", len(b), least, limit)
		return nil
	}
	return b
}

// strings is a list of strings, none twice.
func (o object) strings(name string) []string {
	list := member[[]any](o, name, "a list")
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok || slices.Contains(out, s) {
			o.refuse(name, "not a list of different strings")
			return nil
		}
		if out = append(out, s); len(out) > maxIDs {
			o.refuse(name, "more than %d entries", maxIDs)
			return nil
		}
	}
	return out
}

// maxIDs is LUKS2's limit of keyslots, of tokens, of segments and of digests.
const maxIDs = 32

// numbered returns the objects in o in the order of their names, which are
// numbers below maxIDs.
func (o object) numbered() (ids []int, objects []object) {
	for name := range o.m {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n >= maxIDs || strconv.Itoa(n) != name {
			o.refuse(name, "not a number below %d", maxIDs)
			return nil, nil
		}
		ids = append(ids, n)
	}
	slices.Sort(ids)
	for _, n := range ids {
		objects = append(objects, o.object(strconv.Itoa(n)))
	}
	return ids, objects
}
