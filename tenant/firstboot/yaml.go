package firstboot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// tags are those that cloud-init's parser knows; it refuses a whole text for another.
var tags = []string{"!!null", "!!bool", "!!str", "!!int", "!!float", "!!timestamp", "!!binary", "!!seq", "!!map", "!!set", "!!omap", "!!pairs", "!!merge", "!!python/unicode"}

// document returns the only value of a YAML text, or nil if it has none.
func document(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // comments only
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&second); err == nil {
		return nil, errors.New("there are several documents, with \"---\" in between")
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], known(doc.Content[0])
}

// known refuses tags that are not known.
func known(n *yaml.Node) error {
	if tag := n.ShortTag(); n.Kind != yaml.AliasNode && !slices.Contains(tags, tag) {
		return fmt.Errorf("line %d: cloud-init does not know the tag %q", n.Line, tag)
	}
	for _, c := range n.Content {
		if err := known(c); err != nil {
			return err
		}
	}
	return nil
}

// mapping returns the mapping that a YAML text is, or nil if there is nothing.
func mapping(text []byte) (*yaml.Node, error) {
	n, err := document(text)
	switch {
	case err != nil:
		return nil, err
	case n == nil || n.Kind == yaml.MappingNode:
		return n, nil
	case n.Tag == "!!null":
		return nil, nil
	}
	return nil, errors.New("want names with values, as in \"hostname: web1\"")
}

// value returns a member of a mapping, or nil.
func value(m *yaml.Node, name string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return resolved(m.Content[i+1])
		}
	}
	return nil
}

func isScalar(n *yaml.Node, tag, text string) bool {
	return n != nil && n.Kind == yaml.ScalarNode && n.ShortTag() == tag && n.Value == text
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	for range maxNesting {
		if n == nil || n.Kind != yaml.AliasNode {
			break
		}
		n = n.Alias
	}
	return n
}
