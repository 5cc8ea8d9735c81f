package bond

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources parses the package's files, without tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = file
	}
	if len(out) == 0 {
		t.Fatal("no source files")
	}
	return out
}

// TestImports holds the list of what this package may use. It is pure: nothing
// that reaches files, network or processes, even from the standard library.
func TestImports(t *testing.T) {
	impure := regexp.MustCompile(`^(os|net|syscall|io/fs|unsafe|plugin|testing|runtime)(/|$)`)
	for name, file := range sources(t) {
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(path, "/")
			std := !strings.Contains(first, ".")
			switch {
			case std && !impure.MatchString(path), path == "github.com/fxamacker/cbor/v2", strings.HasPrefix(path, "golang.org/x/"):
			default:
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

// TestNoClock shows that the package never asks for the time.
func TestNoClock(t *testing.T) {
	banned := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(banned, sel.Sel.Name) {
				t.Errorf("%s uses time.%s", name, sel.Sel.Name)
			}
			return true
		})
	}
}

const protocolFile = "../docs/protocol.md"

// cddlRules reads the CDDL blocks of docs/protocol.md: for each rule that is a map or an array,
// its fields in order with their types.
func cddlRules(t *testing.T) (rules map[string][][2]string, text string) {
	t.Helper()
	raw, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```cddl\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	for _, b := range blocks {
		text += regexp.MustCompile(`;.*`).ReplaceAllString(b[1], "") + "\n"
	}
	rules = map[string][][2]string{}
	// A field that may be missing has a question mark, and omitempty in Go.
	field := regexp.MustCompile(`(?m)^  (\? )?([a-z0-9-]+): (.*?),?\s*$`)
	for _, m := range regexp.MustCompile(`(?ms)^([a-z-]+) = [{\[]\s*\n(.*?)^[}\]]`).FindAllStringSubmatch(text, -1) {
		for _, f := range field.FindAllStringSubmatch(m[2], -1) {
			name := f[2]
			if f[1] != "" {
				name += ",omitempty"
			}
			rules[m[1]] = append(rules[m[1]], [2]string{name, strings.TrimSpace(f[3])})
		}
	}
	return rules, text
}

// wireTypes is every struct that goes over the wire, with its rule.
var wireTypes = map[string]any{
	"envelope": wireEnvelope{}, "header": wireHeader{},
	"registration": wireRegistration{}, "spec": wireSpec{}, "disk": wireDisk{}, "seed": wireSeed{}, "base": wireBase{}, "keyslot": wireKeyslot{}, "digest": DiskDigest{}, "nic": NIC{},
	"confirmation": Confirmation{}, "boot-ticket": BootTicket{}, "ticket": Ticket{}, "descriptor": Descriptor{},
	"receipt": Receipt{}, "call": Call{}, "audit": AuditChunk{}, "audit-record": AuditRecord{}, "console": ConsoleChunk{},
	"delegation": Delegation{}, "grant": wireGrant{}, "delegated": wireDelegated{}, "signed": wireSigned{},
	"delegated-ticket": DelegatedTicket{}, "delegated-receipt": DelegatedReceipt{},
}

// TestCDDL compares docs/protocol.md with the structs, both ways: every field with
// its name, place and kind.
func TestCDDL(t *testing.T) {
	rules, text := cddlRules(t)
	for name, value := range wireTypes {
		var want []string
		typ := reflect.TypeOf(value)
		for f := range typ.Fields() {
			if f.Name == "_" {
				continue
			}
			key := f.Tag.Get("cbor")
			if key == "" { // an array: fields have no names on the wire
				key = strings.ToLower(f.Name)
			}
			want = append(want, key)
			i := slices.IndexFunc(rules[name], func(r [2]string) bool { return r[0] == key })
			if i >= 0 && !kindFits(f.Type, resolve(text, rules[name][i][1])) {
				t.Errorf("%s.%s is %s in Go and %q in the CDDL", name, key, f.Type, rules[name][i][1])
			}
		}
		var have []string
		for _, f := range rules[name] {
			have = append(have, f[0])
		}
		if !slices.Equal(have, want) {
			t.Errorf("rule %s has fields %v, the struct %v", name, have, want)
		}
	}
	for rule := range rules {
		if wireTypes[rule] == nil {
			t.Errorf("rule %s has no struct", rule)
		}
	}
	for p := range purposeLimits {
		if !strings.Contains(text, `"`+string(p)+`"`) {
			t.Errorf("purpose %s is not in the CDDL", p)
		}
	}
	// The rest: registration, grant, delegated ticket and delegated receipt.
	if n := len(purposeLimits); n != len(blankMessages())+4 {
		t.Errorf("%d purposes, %d messages and four others", n, len(blankMessages()))
	}
}

// resolve follows rules that only name another type, like nonce.
func resolve(text, typ string) string {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(typ) + ` = (\S.*)$`).FindStringSubmatch(text)
	if m == nil {
		return typ
	}
	return strings.TrimSpace(m[1])
}

func kindFits(g reflect.Type, cddl string) bool {
	has := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(cddl, p) })
	}
	bytesType := func(g reflect.Type) bool { return g.Elem().Kind() == reflect.Uint8 }
	switch g.Kind() {
	case reflect.Bool:
		return has("bool")
	case reflect.String:
		return has("tstr", `"`)
	case reflect.Pointer:
		return g.Elem().Kind() == reflect.String && strings.HasSuffix(cddl, " / null") || g.Elem().Kind() == reflect.Struct && kindFits(g.Elem(), cddl)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Int64:
		return has("uint") || cddl[0] >= '0' && cddl[0] <= '9'
	case reflect.Array:
		return bytesType(g) && cddl == "bstr .size "+strconv.Itoa(g.Len())
	case reflect.Slice:
		return bytesType(g) && has("bstr") || !bytesType(g) && has("[")
	case reflect.Struct, reflect.Map:
		return has("{") || g.Name() != "" && !has("bstr", "tstr", "uint", "bool", "[")
	}
	return false
}

// TestDocumentedLimits looks for the limits of the code in the document.
func TestDocumentedLimits(t *testing.T) {
	raw, err := os.ReadFile(protocolFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Purpose{PurposeRegistration, PurposeConfirmation, PurposeBootTicket, PurposeDescriptor, PurposeTicket, PurposeReceipt, PurposeAudit, PurposeConsole,
		PurposeDelegation, PurposeGrant, PurposeDelegatedTicket, PurposeDelegatedReceipt} {
		size := strconv.Itoa(purposeLimits[p]>>10) + " KiB"
		if purposeLimits[p] == 1<<20 {
			size = "1 MiB"
		}
		row := regexp.MustCompile("(?m)^\\| `" + string(p) + "` \\|.*\\| " + size + " \\|$")
		if !row.Match(raw) {
			t.Errorf("no row for %s with %s", p, size)
		}
	}
	for _, want := range []string{
		"[0*" + strconv.Itoa(MaxCalls) + " call]", "[0*" + strconv.Itoa(MaxRecords) + " bstr]", "[1*" + strconv.Itoa(MaxDisks) + " disk]",
		"1.." + strconv.Itoa(maxIterations), strconv.Itoa(MinMemory) + ".." + strconv.Itoa(MaxMemory), "0.." + strconv.Itoa(maxUnix),
		"0.." + strconv.Itoa(MaxDeadline), "[1*" + strconv.Itoa(maxVersions) + " uint .size 2]",
		labelTranscript, labelBondKey, labelChannelKey, auditLabel, hostIDLabel,
		labelDelegationKey, labelDelegatedTicket, labelDelegateSeal, labelDelegateSign, delegateIDLabel, delegateTextForm,
		strconv.Itoa(maxDelegationText),
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s does not say %q", protocolFile, want)
		}
	}
}
