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
	{"#cloud-config-archive", true}, {"#cloud-config-jsonp", true}, {cloudConfig, true}, {"#include", true}, {"## template: jinja", true},
	{"#!", false}, {"#cloud-boothook", false}, {"#part-handler", false},
}

const formats = "begin the file with \"#cloud-config\", \"#!/bin/sh\" or another of cloud-init's formats (MIME and gzip are fine too)"

// checkUserData refuses what cloud-init would not read, and what would fight with
// what is made here. keys are the members of a cloud-config.
func checkUserData(o *Options) (keys map[string]bool, err error) {
	text := o.UserData
	switch {
	case text == nil:
		return nil, nil
	case len(text) > bond.MaxSeed:
		return nil, tooLarge("the user data", len(text))
	case len(bytes.TrimSpace(text)) == 0:
		return nil, fail.New(fail.Usage, formats, "the user data are empty")
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return nil, fail.New(fail.Usage, "store the file as UTF-8 without a byte order mark", "the user data begin with a byte order mark, which hides their format from cloud-init")
	}
	switch kind, isText := beginning(text); {
	case kind == "":
		return nil, fail.New(fail.Usage, formats, "the first line of the user data is no format of cloud-init's, which would pass over them")
	case isText && (bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text)):
		return nil, fail.New(fail.Usage, "store the file as UTF-8", "the user data begin with %q and are not text", kind)
	case kind != cloudConfig:
		return nil, nil
	}
	if keys, err = members(text); err != nil {
		return nil, fail.Wrap(err, fail.Usage, "cloud-init would pass over the whole file: mend it", "the user data are not valid YAML")
	}
	return keys, conflicts(o, keys)
}

// beginning finds the format of user data, as cloud-init does.
func beginning(text []byte) (kind string, isText bool) {
	if bytes.HasPrefix(text, []byte("\x1f\x8b")) {
		return "gzip", false
	}
	head := bytes.ToLower(bytes.TrimLeft(text[:min(len(text), 4096)], " \t\r\n"))
	for _, b := range beginnings {
		if bytes.HasPrefix(head, []byte(b.prefix)) {
			return b.prefix, b.text
		}
	}
	if bytes.Contains(head, []byte("mime-version:")) {
		return "mime-version", false
	}
	return "", false
}

// members returns the keys of a YAML mapping.
func members(text []byte) (map[string]bool, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	if len(doc.Content) == 0 {
		return keys, nil // comments only
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.Tag == "!!null" {
			return keys, nil
		}
		return nil, fail.New(fail.Usage, "", "want names with values, as in \"hostname: web1\"")
	}
	for i := 0; i < len(root.Content); i += 2 {
		keys[root.Content[i].Value] = true
	}
	return keys, nil
}

// conflicts refuses user data that would undo the vendor data: cloud-init prefers
// them, and the owner would find a guest with other keys than expected.
func conflicts(o *Options, keys map[string]bool) error {
	switch {
	case keys["ssh_keys"] && !o.NoHostKeys:
		return fail.New(fail.Usage, "leave ssh_keys out, and uvbond makes host keys and knows them; or keep them and add --no-host-keys", "the user data have ssh_keys of their own")
	case keys["ssh_authorized_keys"] && len(o.AuthorizedKeys) > 0:
		return fail.New(fail.Usage, "add the key to that list and leave --ssh-key out, or the other way round", "the user data have ssh_authorized_keys, which cloud-init would take in the place of --ssh-key")
	case keys["vendor_data"] && (!o.NoHostKeys || len(o.AuthorizedKeys) > 0):
		return fail.New(fail.Usage, "leave vendor_data out; or add --no-host-keys, and put your key into the user data", "the user data change vendor_data, by which the guest gets its host keys and --ssh-key")
	}
	return nil
}

func checkNetworkConfig(text []byte) error {
	const hint = "see cloud-init's \"Networking config Version 2\""
	if len(text) > bond.MaxSeed {
		return tooLarge("the network configuration", len(text))
	}
	keys, err := members(text)
	switch {
	case err != nil:
		return fail.Wrap(err, fail.Usage, hint, "the network configuration is not valid YAML")
	case !keys["version"] && !keys["network"]:
		return fail.New(fail.Usage, hint, "the network configuration has no \"version: 2\"")
	}
	return nil
}
