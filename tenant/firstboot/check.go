package firstboot

import (
	"bytes"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

const cloudConfig = "#cloud-config"

// beginnings are those of user data that cloud-init does something with, text ones
// with true. It passes over everything else in silence.
var beginnings = []struct {
	prefix string
	text   bool
}{
	{kindArchive, true}, {"#cloud-config-jsonp", true}, {cloudConfig, true}, {"#include", true}, {kindJinja, true},
	{"#!", false}, {"#cloud-boothook", false}, {"#part-handler", false},
}

// Kinds that are no beginning of a line, or that more is done with than others.
const (
	kindGzip    = "gzip"
	kindMIME    = "mime-version"
	kindArchive = "#cloud-config-archive"
	kindJinja   = "## template: jinja"
)

const formats = "begin the file with \"#cloud-config\", \"#!/bin/sh\" or another of cloud-init's formats (MIME and gzip are fine too)"

// checkUserData refuses what cloud-init would not read, and what would fight with
// what is made here.
func checkUserData(o *Options) (*contents, error) {
	text := o.UserData
	switch {
	case text == nil:
		return new(contents), nil
	case len(text) > bond.MaxSeed:
		return nil, tooLarge("the user data", len(text))
	case len(bytes.TrimSpace(text)) == 0:
		return nil, fail.New(fail.Usage, formats, "the user data are empty")
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return nil, fail.New(fail.Usage, "store the file as UTF-8 without a byte order mark", "the user data begin with a byte order mark, which hides their format from cloud-init")
	}
	kind, isText := beginning(text)
	switch {
	case kind == "":
		return nil, fail.New(fail.Usage, formats, "the first line of the user data is no format of cloud-init's, which would pass over them")
	case isText && (bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text)):
		return nil, fail.New(fail.Usage, "store the file as UTF-8", "the user data begin with %q and are not text", kind)
	}
	c := &contents{where: "the user data"}
	if err := c.take(kind, text, 0); err != nil {
		return nil, err
	}
	return c, c.conflicts(o)
}

// beginning finds the format of user data, as cloud-init does.
func beginning(text []byte) (kind string, isText bool) {
	if bytes.HasPrefix(text, []byte("\x1f\x8b")) {
		return kindGzip, false
	}
	head := bytes.ToLower(bytes.TrimLeft(text[:min(len(text), 4096)], " \t\r\n"))
	for _, b := range beginnings {
		if bytes.HasPrefix(head, []byte(b.prefix)) {
			return b.prefix, b.text
		}
	}
	if bytes.Contains(head, []byte("mime-version:")) {
		return kindMIME, false
	}
	return "", false
}

// conflicts refuses user data that would undo the vendor data: cloud-init prefers
// them, and the owner would find a guest with other keys than expected.
func (c *contents) conflicts(o *Options) error {
	switch {
	case c.keys["ssh_keys"] && !o.NoHostKeys:
		return fail.New(fail.Usage, "leave ssh_keys out, and uvbond makes host keys and knows them; or keep them and add --no-host-keys", "the user data have ssh_keys of their own")
	case c.keys["ssh_authorized_keys"] && len(o.AuthorizedKeys) > 0:
		return fail.New(fail.Usage, "add the key to that list and leave --ssh-key out, or the other way round", "the user data have ssh_authorized_keys, which cloud-init would take in the place of --ssh-key")
	case c.keys["vendor_data"] && (!o.NoHostKeys || len(o.AuthorizedKeys) > 0):
		return fail.New(fail.Usage, "leave vendor_data out; or add --no-host-keys, and put your key into the user data", "the user data change vendor_data, by which the guest gets its host keys and --ssh-key")
	}
	return nil
}

// checkNetworkConfig refuses what leaves the guest without a network: cloud-init
// goes by the number of the version, and ends with an error without one.
func checkNetworkConfig(text []byte) error {
	const hint = "see cloud-init's \"Networking config Version 2\""
	if len(text) > bond.MaxSeed {
		return tooLarge("the network configuration", len(text))
	}
	top, err := mapping(text)
	if err != nil {
		return fail.Wrap(err, fail.Usage, hint, "the network configuration is not valid YAML")
	}
	if inner := value(top, "network"); inner != nil && inner.Kind == yaml.MappingNode {
		top = inner
	}
	version := value(top, "version")
	switch {
	case isScalar(value(top, "config"), "!!str", "disabled"): // no network, by the owner's wish
	case isScalar(version, "!!int", "2"):
	case isScalar(version, "!!int", "1"):
		if value(top, "config") == nil {
			return fail.New(fail.Usage, "see cloud-init's \"Networking config Version 1\"", "the network configuration has \"version: 1\" and no \"config\"")
		}
	case version != nil:
		return fail.New(fail.Usage, hint, "the network configuration has a version that is neither 1 nor 2")
	default:
		return fail.New(fail.Usage, hint, "the network configuration has no \"version: 2\"")
	}
	return nil
}
