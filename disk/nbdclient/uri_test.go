package nbdclient

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

var good = map[string]URI{
	"nbd://example.com":               {Network: "tcp", Address: "example.com:10809", Hostname: "example.com"},
	"nbd://example.com/":              {Network: "tcp", Address: "example.com:10809", Hostname: "example.com"},
	"nbd://example.com:10810/disk":    {Network: "tcp", Address: "example.com:10810", Export: "disk", Hostname: "example.com"},
	"nbd://example.com//disk":         {Network: "tcp", Address: "example.com:10809", Export: "/disk", Hostname: "example.com"},
	"nbd://example.com/hello%20world": {Network: "tcp", Address: "example.com:10809", Export: "hello world", Hostname: "example.com"},
	"nbds://[::1]:1/x":                {Network: "tcp", Address: "[::1]:1", Export: "x", TLS: true, Hostname: "::1"},
	"nbds://10.0.0.1?tls-hostname=storage.example&tls-type=x509&tls-verify-peer=1": {Network: "tcp", Address: "10.0.0.1:10809", TLS: true, Hostname: "storage.example"},
	"nbd+unix:///?socket=/run/x.sock":                                              {Network: "unix", Address: "/run/x.sock"},
	"nbd+unix:///disk?socket=/run/x.sock":                                          {Network: "unix", Address: "/run/x.sock", Export: "disk"},
	"nbd+unix:///a/b?socket=/run/a%20b":                                            {Network: "unix", Address: "/run/a b", Export: "a/b"},
	"nbds+unix:///?socket=/run/x.sock&tls-hostname=there":                          {Network: "unix", Address: "/run/x.sock", TLS: true, Hostname: "there"},
}

func goodURIs() []string { return slices.Sorted(maps.Keys(good)) }

var badURIs = []string{
	"", "/run/x.sock", "http://example.com", "nbd:example.com", "nbd:/x", "nbd://", "nbd:///disk", "nbd://:10809", "nbd://host:", "nbd://host:0",
	"nbd://host:65536", "nbd://host:x", "nbd://user@host/", "nbd://host/#x", "nbd://host/#", "nbd://host/%00", "nbd://host/%zz", "nbd://host?socket=/x",
	"nbd://host?tls-hostname=x", "nbds://host?tls-verify-peer=0", "nbds://host?tls-type=anon", "nbds://host?tls-type=psk", "nbds://host?tls-psk-file=/x",
	"nbd://host?x-new=1", "nbd://host?a=%zz", "nbds://host?tls-hostname=a&tls-hostname=b", "nbds://host?tls-hostname=",
	"nbd+unix:///", "nbd+unix:///?socket=", "nbd+unix:///?socket=relative", "nbd+unix:///?socket=%00abstract", "nbd+unix:///?socket=/a%00b",
	"nbd+unix://host/?socket=/x", "nbd+unix:///?socket=/x&socket=/y", "nbd+unix:///?socket=/" + strings.Repeat("x", 107), "nbd+vsock://2/",
	"nbd://host/" + strings.Repeat("x", 4097),
}

func TestParseURI(t *testing.T) {
	for text, want := range good {
		got, err := ParseURI(text)
		if err != nil || *got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range badURIs {
		if u, err := ParseURI(text); err == nil {
			t.Errorf("%q was taken for %+v", text, u)
		}
	}
}
