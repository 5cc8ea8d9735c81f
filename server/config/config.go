// Package config reads server.toml.
//
// The file belongs to the server's operator and is trusted as such; it is
// still decoded strictly, so that a misspelt key is an error and not a default.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// DefaultPath is where the configuration is looked for when none is named.
const DefaultPath = "/etc/uvbond/server.toml"

// maxFile bounds the configuration file, in bytes.
const maxFile = 1 << 20

// Config is everything that can be set. The zero value is not useful: start
// from Default.
type Config struct {
	Name          string              `toml:"name"`           // the host's name as tenants see it
	Listen        string              `toml:"listen"`         // address of the HTTPS API
	MetricsListen string              `toml:"metrics_listen"` // plain HTTP for Prometheus; empty: /metrics on the API's address
	DataDir       string              `toml:"data_dir"`
	Gate          string              `toml:"gate"` // the hypervisor's unix socket
	TLS           TLS                 `toml:"tls"`
	Log           Log                 `toml:"log"`
	Limits        Limits              `toml:"limits"`
	Timeouts      Timeouts            `toml:"timeouts"`
	Bases         Bases               `toml:"bases"`
	Taps          map[string][]string `toml:"taps"` // VM id -> tap interfaces, in the order of its NICs

	path string
}

// TLS names the certificate. Empty paths mean <data_dir>/tls/cert.pem and
// key.pem, made on the first start.
type TLS struct {
	Cert  string   `toml:"cert"`
	Key   string   `toml:"key"`
	Names []string `toml:"names"` // further DNS names and IP addresses in a certificate that is made
}

// Log is the shape of the log.
type Log struct {
	Format string `toml:"format"` // "text" or "json"
	Level  string `toml:"level"`  // "debug", "info", "warn", "error"
}

// Limits bound what clients may use.
type Limits struct {
	Connections       int      `toml:"connections"`             // open TCP connections
	Requests          int      `toml:"requests"`                // requests at once
	Uploads           int      `toml:"uploads"`                 // upload chunks at once
	Commands          int      `toml:"commands"`                // gate sessions at once
	PerTenant         int      `toml:"per_tenant"`              // requests at once of one tenant
	Channels          int      `toml:"channels"`                // open channels
	ChannelsPerTenant int      `toml:"channels_per_tenant"`     // open channels of one tenant
	AuthFailures      int      `toml:"auth_failures"`           // failed authentications a minute and address
	Quota             Size     `toml:"quota"`                   // bytes of images of a new tenant
	MaxVMs            int      `toml:"max_vms"`                 // VMs of a new tenant
	MaxImages         int      `toml:"max_images"`              // images of every tenant
	UploadExpiry      Duration `toml:"upload_expiry"`           // an upload without progress is dropped after this time
	FreeSpace         Size     `toml:"free_space"`              // kept free on the data directory's file system
	GateWait          Duration `toml:"gate_wait"`               // a command waits so long for another session on its VM
	PollInterval      Duration `toml:"poll_interval,omitempty"` // between looks at a VM that shuts down
}

// Bases is about disks that are made from base images.
type Bases struct {
	Storage string `toml:"storage"` // of the hypervisor's, where they lie; empty: in data_dir
	Exports string `toml:"exports"` // program that makes and removes exports there; empty: somebody else does
}

// Timeouts bound slow clients and slow ends.
type Timeouts struct {
	Header  Duration `toml:"header"`  // to send a request's header
	Body    Duration `toml:"body"`    // to send a JSON body
	Chunk   Duration `toml:"chunk"`   // without any byte of an upload chunk
	Write   Duration `toml:"write"`   // to take an answer
	Idle    Duration `toml:"idle"`    // between requests
	Command Duration `toml:"command"` // of one management command
	Drain   Duration `toml:"drain"`   // for running requests when the server stops
}

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		Name: "uvbond", Listen: "127.0.0.1:8443",
		DataDir: defaultDataDir(), Gate: "/run/uvbond/gate/gate.sock",
		Log: Log{Format: "text", Level: "info"},
		Limits: Limits{
			Connections: 1024, Requests: 256, Uploads: 16, Commands: 64, PerTenant: 32, Channels: 512, ChannelsPerTenant: 256,
			AuthFailures: 10, Quota: 100 << 30, MaxVMs: 100, MaxImages: 1000,
			UploadExpiry: Duration(7 * 24 * time.Hour), FreeSpace: 128 << 20,
			GateWait: Duration(10 * time.Second), PollInterval: Duration(300 * time.Millisecond),
		},
		Timeouts: Timeouts{
			Header: Duration(10 * time.Second), Body: Duration(30 * time.Second),
			Chunk: Duration(30 * time.Second), Write: Duration(60 * time.Second),
			Idle: Duration(2 * time.Minute), Command: Duration(3 * time.Minute),
			Drain: Duration(30 * time.Second),
		},
	}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/uvbond-server"
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "uvbond-server")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/var/lib/uvbond-server"
	}
	return filepath.Join(home, ".local", "share", "uvbond-server")
}

// Load reads a configuration file over the defaults. An empty path means
// DefaultPath when that exists, else the defaults alone.
func Load(path string) (*Config, error) {
	c := Default()
	if path == "" {
		if _, err := os.Stat(DefaultPath); errors.Is(err, fs.ErrNotExist) {
			return c, c.Validate()
		}
		path = DefaultPath
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("configuration %s is larger than 1 MiB", path)
	}
	meta, err := toml.DecodeFile(path, c)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("configuration %s: unknown key %s", path, unknown[0])
	}
	c.path = path
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Path is the file that the configuration came from, empty for the defaults.
func (c *Config) Path() string { return c.path }

// Validate checks what can be checked without touching the system.
func (c *Config) Validate() error {
	if strings.TrimSpace(c.Name) == "" || len(c.Name) > 64 {
		return errors.New("name: 1 to 64 characters are needed")
	}
	if err := checkAddress("listen", c.Listen); err != nil {
		return err
	}
	if c.MetricsListen != "" {
		if err := checkAddress("metrics_listen", c.MetricsListen); err != nil {
			return err
		}
	}
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("data_dir %q: an absolute path is needed", c.DataDir)
	}
	if !filepath.IsAbs(c.Gate) {
		return fmt.Errorf("gate %q: an absolute path is needed", c.Gate)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return errors.New("tls: name both cert and key, or neither")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format %q: text or json", c.Log.Format)
	}
	if _, err := c.Log.level(); err != nil {
		return err
	}
	return c.validateLimits()
}

func (c *Config) validateLimits() error {
	l := c.Limits
	for _, v := range []struct {
		name string
		n    int
	}{
		{"connections", l.Connections}, {"requests", l.Requests}, {"uploads", l.Uploads}, {"commands", l.Commands},
		{"per_tenant", l.PerTenant}, {"channels", l.Channels}, {"channels_per_tenant", l.ChannelsPerTenant}, {"auth_failures", l.AuthFailures}, {"max_images", l.MaxImages},
	} {
		if v.n < 1 {
			return fmt.Errorf("limits.%s: at least 1 is needed", v.name)
		}
	}
	if l.MaxVMs < 0 {
		return errors.New("limits.max_vms: must not be negative")
	}
	return c.validatePlaces()
}

// storageName is what the gate accepts.
var storageName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func (c *Config) validatePlaces() error {
	switch b := c.Bases; {
	case b.Storage != "" && !storageName.MatchString(b.Storage):
		return fmt.Errorf("bases.storage %q: a storage of the hypervisor's is called like %s", b.Storage, storageName)
	case b.Exports != "" && b.Storage == "":
		return errors.New("bases.exports: name the storage, too")
	case b.Exports != "" && !filepath.IsAbs(b.Exports):
		return fmt.Errorf("bases.exports %q: an absolute path is needed", b.Exports)
	}
	for vm := range c.Taps {
		if len(vm) != 32 {
			return fmt.Errorf("taps: %q is not a VM id (32 hex digits)", vm)
		}
	}
	return nil
}

func checkAddress(key, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%s %q: write host:port, for example 127.0.0.1:8443", key, address)
	}
	return nil
}

// ImageDir holds the images, one file each, named by the image's id.
func (c *Config) ImageDir() string { return filepath.Join(c.DataDir, "images") }

// BaseDir holds the public base images.
func (c *Config) BaseDir() string { return filepath.Join(c.DataDir, "bases") }

// Database is the SQLite file.
func (c *Config) Database() string { return filepath.Join(c.DataDir, "server.db") }

// CertFiles are the certificate and its key.
func (c *Config) CertFiles() (cert, key string) {
	if c.TLS.Cert != "" {
		return c.TLS.Cert, c.TLS.Key
	}
	return filepath.Join(c.DataDir, "tls", "cert.pem"), filepath.Join(c.DataDir, "tls", "key.pem")
}
