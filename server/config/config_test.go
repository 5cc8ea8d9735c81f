package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoad(t *testing.T) {
	c, err := load(t, "listen = \"[::1]:9\"\n[limits]\nquota = \"2TB\"\nupload_expiry = \"1h\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "[::1]:9" || c.Limits.Quota != 2e12 || c.Limits.UploadExpiry.D() != time.Hour {
		t.Errorf("read as %+v", c)
	}
	if d := Default(); c.Limits.Requests != d.Limits.Requests || c.Timeouts != d.Timeouts {
		t.Error("a key that is not in the file lost its default")
	}
}

// TestRefused: each error names the key and says what is needed.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"listen = \"8443\"":                                "write host:port",
		"metrics_listen = \"x\"":                           "metrics_listen",
		"gate = \"gate.sock\"":                             "gate \"gate.sock\": an absolute path",
		"data_dir = \"data\"":                              "data_dir \"data\": an absolute path",
		"name = \" \"":                                     "name:",
		"lisen = \"127.0.0.1:1\"":                          "unknown key lisen",
		"[tls]\ncert = \"/c\"":                             "both cert and key",
		"[log]\nlevel = \"loud\"":                          "log.level",
		"[bases]\nstorage = \"nbd://x\"":                   "bases.storage",
		"[bases]\nexports = \"/bin/true\"":                 "name the storage, too",
		"[bases]\nstorage = \"x\"\nexports = \"bin/true\"": "an absolute path",
		"[limits]\nrequests = 0":                           "limits.requests: at least 1",
		"[limits]\nmax_vms = -1":                           "limits.max_vms",
		"[limits]\nquota = \"9999999999TiB\"":              "too large",
		"[limits]\nquota = \"-1GiB\"":                      "write a number and a unit",
		"[timeouts]\nidle = \"-1s\"":                       "duration",
		"[taps]\nweb1 = [\"tap0\"]":                        "not a VM id",
		"name = \"" + strings.Repeat("x", 1<<20) + "\"\n":  "larger than 1 MiB",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); err == nil || !strings.Contains(err.Error(), "none.toml") {
		t.Error(err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]string{"100GiB": "100GiB", "1536MiB": "1.5GiB", "0": "0B", "1023": "1023B", "1 KiB": "1KiB", "2GB": "1.9GiB"} {
		s, err := ParseSize(text)
		if err != nil || s.String() != want {
			t.Errorf("%q is %v (%v), want %s", text, s, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "-1", "1XB", "99999999999999999999"} {
		if s, err := ParseSize(text); err == nil {
			t.Errorf("%q is %v", text, s)
		}
	}
}
