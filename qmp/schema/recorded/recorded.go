// Package recorded holds what versions of QEMU answered to query-qmp-schema:
// one file for each, named after the version's major and minor number.
//
//	go run ./qmp/schema/cmd/record -qemu qemu-system-x86_64
//
// adds the file of the QEMU that is installed.
package recorded

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/uvbond/uvbond/qmp/schema"
)

//go:embed qemu-*.json.gz
var files embed.FS

// Recording is the content of a file, before it is compressed with gzip.
type Recording struct {
	Major   int             `json:"major"`
	Minor   int             `json:"minor"`
	Micro   int             `json:"micro"`
	Package string          `json:"package"` // as the distribution calls it
	Schema  json.RawMessage `json:"schema"`  // answer to query-qmp-schema
}

// FileName of the recording.
func (r *Recording) FileName() string { return fmt.Sprintf("qemu-%d.%d.json.gz", r.Major, r.Minor) }

// Versions returns the versions that are recorded, such as "7.2", oldest first.
func Versions() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // it is in the program
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(e.Name(), "qemu-"), ".json.gz"))
	}
	slices.SortFunc(out, func(a, b string) int { return number(a) - number(b) })
	return out
}

func number(version string) int {
	major, minor, _ := strings.Cut(version, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return 1000*a + b
}

// Read returns a recording.
func Read(version string) (*Recording, error) {
	raw, err := files.ReadFile("qemu-" + version + ".json.gz")
	if err != nil {
		return nil, fmt.Errorf("no schema of QEMU %q is recorded: there are %s", version, strings.Join(Versions(), ", "))
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	r := new(Recording)
	return r, json.Unmarshal(text, r)
}

// Schema returns the schema of a version of QEMU, without the gate's commands.
func Schema(version string) (*schema.Schema, error) {
	r, err := Read(version)
	if err != nil {
		return nil, err
	}
	return schema.Parse("QEMU "+version, r.Schema)
}

// Newest returns the schema of the newest version, with the gate's commands. It
// is read once.
var Newest = sync.OnceValue(func() *schema.Schema {
	v := Versions()
	s, err := Schema(v[len(v)-1])
	if err != nil {
		panic(err) // it is in the program, and a test reads it
	}
	return s.WithGate()
})
