package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

const (
	maxDepth = 32
	// maxRequestValues bounds what a request costs once decoded; the largest
	// real one has a few hundred.
	maxRequestValues = 1 << 14
	// maxMessageValues is for answers: query-qmp-schema has some 70,000.
	maxMessageValues = 1 << 18
)

// strictDecoder reads JSON so that a text has one meaning: no duplicate keys,
// no invalid UTF-8, no NUL (where C code would end the string), bounded depth
// and number of values, nothing after the value. Numbers stay json.Number.
type strictDecoder struct {
	dec    *json.Decoder
	values int
}

func newStrictDecoder(data []byte, values int) (*strictDecoder, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return &strictDecoder{dec: dec, values: values}, nil
}

func (d *strictDecoder) token() (json.Token, error) {
	t, err := d.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// value decodes the next value, which lies inside depth others.
func (d *strictDecoder) value(depth int) (any, error) {
	if d.values--; d.values < 0 {
		return nil, errors.New("too many values")
	}
	t, err := d.token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if depth >= maxDepth {
			return nil, fmt.Errorf("nested deeper than %d", maxDepth)
		}
		if t == '{' {
			return d.object(depth + 1)
		}
		return d.array(depth + 1)
	case string:
		return t, checkString(t)
	default:
		return t, nil
	}
}

func checkString(s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("string holds a NUL character")
	}
	return nil
}

func (d *strictDecoder) object(depth int) (map[string]any, error) {
	m := map[string]any{}
	err := d.members(func(key string) error {
		v, err := d.value(depth)
		m[key] = v
		return err
	})
	return m, err
}

// members calls f at every member's value of the object just opened.
func (d *strictDecoder) members(f func(key string) error) error {
	seen := map[string]bool{}
	for d.dec.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("unexpected %v in an object", t)
		}
		if err := checkString(key); err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("duplicate member %q", clip(key))
		}
		seen[key] = true
		if err := f(key); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

func (d *strictDecoder) array(depth int) ([]any, error) {
	list := []any{}
	for d.dec.More() {
		v, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.token()
	return list, err
}

// end refuses anything but white space after the value.
func (d *strictDecoder) end() error {
	if t, err := d.dec.Token(); err == nil {
		return fmt.Errorf("unexpected %v after the message", t)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the message: %w", err)
	}
	return nil
}

// checkKeys holds decoded JSON against the type it goes into, because
// encoding/json matches members without regard to case and drops null.
func checkKeys(v any, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if v == nil {
		return fmt.Errorf("%s is null", strings.TrimPrefix(path, "."))
	}
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil // encoding/json reports what is wrong
		}
		fields := jsonFields(t)
		for key, member := range v {
			ft, ok := fields[key]
			if !ok {
				return fmt.Errorf("unknown argument %s", strings.TrimPrefix(path+"."+clip(key), "."))
			}
			if err := checkKeys(member, ft, path+"."+key); err != nil {
				return err
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, member := range v {
			if err := checkKeys(member, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.IsExported() {
			fields[jsonName(f)] = f.Type
		}
	}
	return fields
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// clip keeps another domain's words short enough for an error.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
