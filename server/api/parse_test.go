package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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

func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":1,"a":2}`, `[[]]`, `{"id":"x","disks":[{"name":"root"}]}`, `1 2`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if unmarshalStrict(data, &v) == nil && !json.Valid(data) {
			t.Fatal("took what is no JSON")
		}
	})
}

func FuzzContentDigest(f *testing.F) {
	for _, s := range []string{"", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:", "md5=:AA==:,sha-256=::", "sha-256=x", "=,:"} {
		f.Add(s)
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
