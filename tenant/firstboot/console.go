package firstboot

import (
	_ "embed"
	"fmt"
	"unicode/utf8"
)

// consoleSize tells bash in the guest how large the terminal at its serial console is. It
// has the other half of what package terminal answers.
//
//go:embed console-size.sh
var consoleSize string

// consoleSizePath is where the guest's login shells read it.
const consoleSizePath = "/etc/profile.d/uvbond-console-size.sh"

// boothook puts the snippet into the guest, once: who deletes it there is rid of it. A boothook
// runs before anybody can log in, and is no member of a cloud-config, so that it takes
// nothing from the owner's write_files and runcmd, which cloud-init would prefer.
func boothook() []byte {
	return []byte(`#cloud-boothook
#!/bin/sh
f=` + consoleSizePath + `
done=/var/lib/cloud/instance/sem/uvbond_console_size
[ -e "$done" ] || [ ! -d "${f%/*}" ] || {
cat >"$f.new" <<'END-OF-FILE' && chmod 644 "$f.new" && mv "$f.new" "$f" && : >"$done"
` + consoleSize + `END-OF-FILE
}
exit 0
`)
}

// vendorBoundary parts the vendor data; no part has it.
const vendorBoundary = "==uvbond-vendor-data=="

// part is one of several vendor data: a text of a type below "text/".
type part struct {
	kind string
	text []byte
}

// archive is cloud-init's archive of several parts: MIME (RFC 2046), in ASCII, since
// Python's parser takes other characters for another encoding.
func archive(parts ...part) []byte {
	n := 200
	for _, p := range parts {
		n += 6*len(p.text) + 200
	}
	b := make([]byte, 0, n) // never moved: there are private keys in it
	b = fmt.Appendf(b, "Content-Type: multipart/mixed; boundary=\"%s\"\nMIME-Version: 1.0\n", vendorBoundary)
	for _, p := range parts {
		b = fmt.Appendf(b, "\n--%s\nContent-Type: text/%s; charset=\"us-ascii\"\n\n", vendorBoundary, p.kind)
		b = appendASCII(b, p.text)
	}
	return fmt.Appendf(b, "\n--%s--\n", vendorBoundary)
}

// appendASCII writes other characters as YAML does within quotes: they stand nowhere else.
func appendASCII(b, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r < utf8.RuneSelf:
			b = append(b, byte(r))
		case r < 1<<16:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
		text = text[n:]
	}
	return b
}
