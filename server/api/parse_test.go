package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestStrictJSON(t *testing.T) {
	for text, good := range map[string]bool{
		`{"a":1,"b":[1,{"a":2}]}`: true, `null`: true, ` [] `: true,
		`{"a":1,"a":2}`: false, `{"b":{"a":1,"a":2}}`: false, `{"a":1,"\u0061":2}`: false,
		`{} {}`: false, `{}x`: false, ``: false, `{`: false, `[1,]`: false,
		`[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]`: false,
	} {
		var v any
		if err := unmarshalStrict([]byte(text), &v); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// seeds reads the files of testdata/seeds with that pattern, and fails without any.
func seeds(f *testing.F, pattern string) (list [][]byte) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "seeds", pattern))
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds testdata/seeds/%s (%v)", pattern, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, data)
	}
	return list
}

func FuzzStrictJSON(f *testing.F) {
	for _, data := range seeds(f, "json-*.json") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if unmarshalStrict(data, &v) == nil && !json.Valid(data) {
			t.Fatal("took what is no JSON")
		}
	})
}

func FuzzContentDigest(f *testing.F) {
	for _, data := range seeds(f, "digest-*.txt") {
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sum, err := parseDigest(s); err != nil && sum != nil {
			t.Fatal("a sum beside an error")
		}
	})
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7:80": "192.0.2.7", "[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64", "[::ffff:192.0.2.7]:9": "192.0.2.7", "junk": "?",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = in
		if got := address(r); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestFailuresAreBounded(t *testing.T) {
	f := failures{perMinute: 1}
	for i := range 3 * maxAddresses {
		f.allow(string(rune(i)) + "x")
	}
	if len(f.limits) > maxAddresses {
		t.Fatal(len(f.limits))
	}
}
