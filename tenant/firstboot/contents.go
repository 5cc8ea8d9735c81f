package firstboot

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/uvbond/uvbond/tenant/fail"
)

// User data may be several in one: MIME, an archive, and each of them compressed.
// cloud-init merges all cloud-config that is in there, so all of it is looked at.

const (
	maxUnpacked = 16 << 20 // bytes that compressed user data may become
	maxNesting  = 8        // things within things
)

// contents is what user data consist of, as far as it matters here.
type contents struct {
	where string          // what is looked at, for errors
	parts int             // of all MIME messages and archives, so far
	keys  map[string]bool // members of cloud-config
	users *yaml.Node      // value of the member of that name
}

// take looks at user data, or a part of them, of a kind that beginning returned.
func (c *contents) take(kind string, text []byte, depth int) error {
	if depth > maxNesting {
		return fail.New(fail.Usage, "make them simpler", "the user data are nested more than %d deep", maxNesting)
	}
	switch kind {
	case kindGzip:
		plain, err := unpack(text)
		if err != nil {
			return fail.Wrap(err, fail.Usage, "compress the file again", "%s: cloud-init cannot unpack it", c.where)
		}
		kind, _ := beginning(plain)
		if kind == "" {
			return fail.New(fail.Usage, formats, "%s, unpacked: the first line is no format of cloud-init's, which would pass over it", c.where)
		}
		return c.take(kind, plain, depth+1)
	case kindMIME:
		return c.message(text, depth)
	case kindArchive:
		return c.archive(text, depth)
	case kindJinja:
		c.template(text)
	case cloudConfig:
		return c.config(text)
	}
	return nil
}

func unpack(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err == nil && len(plain) > maxUnpacked {
		err = fmt.Errorf("it has more than %d bytes then", maxUnpacked)
	}
	return plain, err
}

// config looks at a cloud-config.
func (c *contents) config(text []byte) error {
	top, err := mapping(text)
	if err != nil {
		return fail.Wrap(err, fail.Usage, "cloud-init would pass over the whole file: mend it", "%s are not valid YAML", c.where)
	}
	c.add(top, 0)
	return nil
}

// add remembers the members of a mapping, and those that are merged into it.
func (c *contents) add(m *yaml.Node, depth int) {
	if m = resolved(m); m == nil || depth > maxNesting {
		return
	}
	if m.Kind == yaml.SequenceNode {
		for _, n := range m.Content {
			c.add(n, depth+1)
		}
		return
	}
	if m.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		switch key := m.Content[i]; {
		case key.Tag == "!!merge":
			c.add(m.Content[i+1], depth+1)
		case key.Value == "users":
			c.users = resolved(m.Content[i+1])
			fallthrough
		default:
			if c.keys == nil {
				c.keys = map[string]bool{}
			}
			c.keys[key.Value] = true
		}
	}
}

// member finds what looks like a member of a cloud-config that is yet to be made.
var member = regexp.MustCompile(`(?m)^(ssh_keys|ssh_authorized_keys|vendor_data)[ \t]*:`)

// template looks at a text that becomes YAML in the guest only.
func (c *contents) template(text []byte) {
	for _, m := range member.FindAllSubmatch(text, -1) {
		c.add(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: string(m[1])}, {}}}, 0)
	}
}

// message looks at a MIME message. cloud-init's parser takes a message that is not
// quite right as well as it can; what this one does not understand is looked
// through for what matters.
func (c *contents) message(text []byte, depth int) error {
	if first, rest, _ := bytes.Cut(text, []byte("\n")); bytes.HasPrefix(first, []byte("From ")) {
		text = rest // as mailboxes have it
	}
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		c.template(text)
		return nil
	}
	return c.entity(textproto.MIMEHeader(m.Header), m.Body, depth)
}

// entity looks at a message or a part of one.
func (c *contents) entity(h textproto.MIMEHeader, body io.Reader, depth int) error {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && h.Get("Content-Type") != "" {
		kind = "text/plain" // as Python's parser does
	}
	if strings.HasPrefix(kind, "multipart/") {
		return c.multipart(multipart.NewReader(body, params["boundary"]), depth)
	}
	text, err := io.ReadAll(decoded(h.Get("Content-Transfer-Encoding"), body))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fail.Wrap(err, fail.Usage, "make the message anew", "%s: the encoding of the part is damaged", c.where)
	}
	return c.part(kind, text, depth+1)
}

// multipart looks at all parts. A message that ends without its last line is taken
// as far as it goes.
func (c *contents) multipart(r *multipart.Reader, depth int) error {
	if depth > maxNesting {
		return c.take("", nil, depth)
	}
	for {
		p, err := r.NextRawPart()
		if err != nil {
			return nil
		}
		c.parts++
		c.where = fmt.Sprintf("part %d of the user data", c.parts)
		if err := c.entity(p.Header, p, depth+1); err != nil {
			return err
		}
	}
}

func decoded(encoding string, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

// part looks at a part with a type of its own; cloud-init trusts some types and looks
// for itself where it got another.
func (c *contents) part(kind string, text []byte, depth int) error {
	switch kind {
	case "text/cloud-config":
		return c.take(cloudConfig, text, depth)
	case "text/cloud-config-archive":
		return c.take(kindArchive, text, depth)
	case "text/jinja2":
		return c.take(kindJinja, text, depth)
	case "", "text/plain", "text/x-not-multipart", "text/x-shellscript":
	case "application/gzip", "application/x-gzip", "application/gzip-compressed", "application/gzipped", "application/x-gunzip",
		"application/x-gzip-compressed", "application/x-compress", "application/x-compressed":
		return c.take(kindGzip, text, depth)
	default:
		return nil
	}
	kind, _ = beginning(text)
	if kind == kindMIME { // within a part it is text
		return nil
	}
	return c.take(kind, text, depth)
}

// archive looks at a list of texts, or of mappings with type and content.
func (c *contents) archive(text []byte, depth int) error {
	doc, err := document(text)
	if err != nil || doc != nil && doc.Kind != yaml.SequenceNode {
		if err == nil {
			err = errors.New("want a list")
		}
		return fail.Wrap(err, fail.Usage, "cloud-init would pass over the whole file: mend it", "%s are not a valid archive", c.where)
	}
	if doc == nil {
		return nil
	}
	for _, n := range doc.Content {
		c.parts++
		c.where = fmt.Sprintf("part %d of the user data", c.parts)
		n, kind := resolved(n), ""
		if n.Kind == yaml.MappingNode {
			if t := value(n, "type"); t != nil {
				kind = t.Value
			}
			n = value(n, "content")
		}
		if n == nil || n.Kind != yaml.ScalarNode {
			continue
		}
		if kind == "" {
			if begins, _ := beginning([]byte(n.Value)); begins == "" {
				kind = "text/cloud-config"
			}
		}
		if err := c.part(kind, []byte(n.Value), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// noDefaultUser tells whether the user data make users, and not cloud-init's default
// one, which is who --ssh-key is for.
func (c *contents) noDefaultUser() bool {
	if !c.keys["users"] || c.users == nil {
		return false
	}
	if c.users.Kind == yaml.ScalarNode { // "default, bob"
		return !strings.Contains(c.users.Value, "default")
	}
	for _, u := range c.users.Content {
		if u = resolved(u); u == nil {
			continue
		}
		name := u
		if u.Kind == yaml.MappingNode {
			name = value(u, "name")
		}
		if name != nil && name.Value == "default" {
			return false
		}
	}
	return true
}
