package storage

import (
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	const unix = "nbd+unix:///?socket=/run/x"
	for name, x := range map[string]struct {
		storage string
		c       Config
		want    string
	}{
		"name":        {"Ceph", Config{URI: unix}, "the name"},
		"no uri":      {"a", Config{}, "scheme"},
		"path":        {"a", Config{URI: "/run/x"}, "scheme"},
		"export":      {"a", Config{URI: "nbd://host/disk"}, "names the export"},
		"connections": {"a", Config{URI: unix, Connections: 99}, "connections"},
		"ca and none": {"a", Config{URI: unix, CA: "/x"}, "nbds"},
		"tls, no ca":  {"a", Config{URI: "nbds://host"}, "CA"},
		"missing ca":  {"a", Config{URI: "nbds://host", CA: "/nonexistent"}, "/nonexistent"},
		"half a pair": {"a", Config{URI: "nbds://host", CA: "/dev/null", Key: "/x"}, "certificate"},
		"empty ca":    {"a", Config{URI: "nbds://host", CA: "/dev/null"}, "has none"},
	} {
		if _, err := New(x.storage, x.c); err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), "storage.") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := New("ceph1", Config{URI: unix, Connections: 2}); err != nil || s.ForKeeper("x").Connections != 2 {
		t.Error(err)
	}
}

func TestValidExport(t *testing.T) {
	for _, good := range []string{"", "image-564caa", "pool/image@snap", "a.b:c+d_e"} {
		if !ValidExport(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"a b", "a\n", "ä", "a\x00", `a"`, strings.Repeat("x", 256)} {
		if ValidExport(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}
