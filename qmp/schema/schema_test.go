package schema_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
)

func qemu(t *testing.T) *schema.Schema {
	t.Helper()
	s, err := recorded.Schema("7.2")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRecorded: every recorded schema parses, and knows what everybody knows.
func TestRecorded(t *testing.T) {
	if len(recorded.Versions()) == 0 {
		t.Fatal("no version is recorded")
	}
	for _, v := range recorded.Versions() {
		s, err := recorded.Schema(v)
		if err != nil {
			t.Fatalf("%s: %v", v, err)
		}
		for _, name := range []string{"query-status", "stop", "cont", "migrate", "blockdev-add", "screendump", "qmp_capabilities"} {
			if _, err := s.Command(name); err != nil {
				t.Errorf("%s: %s: %v", v, name, err)
			}
		}
		if !slices.Contains(s.Events(), "STOP") || len(s.Commands()) < 200 {
			t.Errorf("%s: %d commands, events %v", v, len(s.Commands()), s.Events())
		}
	}
	if _, err := recorded.Schema("1.0"); err == nil || !strings.Contains(err.Error(), "7.2") {
		t.Errorf("an unrecorded version: %v", err)
	}
}

func TestLookups(t *testing.T) {
	s := qemu(t)
	c, err := s.Command("blockdev-add")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"driver": "one of", "node-name": "a string", "read-only": "true or false", "file": "an object or a string",
		"cache.direct": "true or false", "file.filename": "a string", "discard": `one of "ignore", "unmap"`,
	} {
		if got, err := c.Argument(path); err != nil || !strings.Contains(got.String(), want) && !strings.Contains(got.String(), "a string or an object") {
			t.Errorf("%s: %v, %v; want %s", path, got, err, want)
		}
	}
	for path, hint := range map[string]string{"node_nam": `"node-name"`, "cache.dirct": `"direct"`, "file.zzzzzzzz": ""} {
		if _, err := c.Argument(path); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v; want a hint at %s", path, err, hint)
		}
	}
	for name, hint := range map[string]string{"system-reset": "system_reset", "querystatus": "query-status", "STOP": "stop", "human-monitor-comand": "human-monitor-command"} {
		if _, err := s.Command(name); err == nil || !strings.Contains(err.Error(), `did you mean "`+hint+`"?`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Command("open-the-pod-bay-doors"); err == nil || strings.Contains(err.Error(), "mean") {
		t.Errorf("a far-off name: %v", err)
	}
	if _, err := s.Event("STOPP"); err == nil || !strings.Contains(err.Error(), `"STOP"`) {
		t.Errorf("event: %v", err)
	}
	status, err := s.Command("query-status")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := status.Field("status"); err != nil || f.Kind != schema.KindEnum || !slices.Contains(f.Enum, "paused") {
		t.Errorf("query-status.status: %v, %v", f, err)
	}
}

func findings(t *testing.T, text string) []string {
	t.Helper()
	f, err := automaton.Parse("test", []byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return recorded.Newest().Check(f)
}

// TestCheckAccepts: what QEMU takes is not complained of.
func TestCheckAccepts(t *testing.T) {
	for _, body := range []string{
		`stop query-status* cont`,
		`balloon{ value: 256MiB..2GiB }`,
		`getfd{ fdname: $f } migrate{ uri: "fd:" $f, detach?: boolean }`,
		`migrate{ uri: string, ... }`,
		`screendump{ filename: glob "/tmp/*", ... }`,
		`migrate-set-capabilities{ capabilities: [{ capability: "events" | "xbzrle", state: true }+] }`,
		`send-key{ keys: [{ type: "qcode", data: "ctrl" | "alt" }, { type: "number", data: 1..255 }*] }`,
		`blockdev-add{ driver: "qcow2", node-name: $n, file: { driver: "file", filename: string } }`,
		`blockdev-add{ driver: "raw", node-name: string, file: "storage" }`,
		`blockdev-add{ ... }`,
		`device_add{ driver: "virtio-net-pci", id: string, ... }`,
		`device_add{ driver: "virtio-blk-pci", drive: "x", addr: "0x7" }`,
		`qom-set{ path: string, property: string, value: any }`,
		`block_set_io_throttle{ id?: string, bps: 0.., bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0, ... }`,
		`uvbond-launch{ disks: [{ fd-index: 0..15, name: string }+], expect?: { memory: 1GiB } }`,
		`uvbond-read-audit{ from: 0.. }`,
		`query-status stop{ ... }`,
	} {
		if got := findings(t, "automaton a = "+body+" ;"); len(got) > 0 {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// TestCheckRefuses: what QEMU never takes is named, with what was meant.
func TestCheckRefuses(t *testing.T) {
	for body, want := range map[string]string{
		`sytem_reset`:                                         `hypercall ` + "`sytem_reset`" + `: QEMU 7.2 with UVBond's gate has no such command; did you mean "system_reset"?`,
		`stop query_status*`:                                  `did you mean "query-status"?`,
		`stop{ force: true }`:                                 "`stop.force` does not exist",
		`migrate{ ury: "fd:x" }`:                              "`migrate.ury` does not exist; did you mean \"uri\"?",
		`migrate{ detach: true }`:                             "`migrate.uri` is demanded, and the text does not allow it",
		`migrate`:                                             "`migrate.uri` is demanded",
		`balloon{ value: "256MiB" }`:                          "`balloon.value` must be an integer, so `\"256MiB\"` never fits",
		`balloon{ value: 1 | true }`:                          "`true` never fits",
		`migrate{ uri: string, blk: "yes" }`:                  "must be true or false",
		`migrate{ uri: 5 as $u }`:                             "must be a string",
		`migrate{ uri: string, blk: "fd:" $x }`:               "must be true or false",
		`send-key{ keys: [{ type: "qcode", data: "ctlr" }] }`: `did you mean "ctrl"?`,
		`send-key{ keys: "ctrl" }`:                            "must be a list",
		`send-key{ keys: [{ type: "number", data: "a" }] }`:   "must be an integer",
		`migrate-set-capabilities{ capabilities: [{ capability: glob "zz*", state: true }] }`:        "never fits",
		`migrate-set-capabilities{ capabilities: [{ capability: "evens", state: true }] }`:           `did you mean "events"?`,
		`migrate-set-capabilities{ capabilities: [{ capability: "events" }] }`:                       "state` is demanded",
		`blockdev-add{ driver: "qcow2", node-name: string, file: { driver: "file", filname: "x" } }`: `did you mean "filename"?`,
		`blockdev-add{ driver: "qcow2", node-name: string, filename: "x", file: "x" }`:               "`blockdev-add.filename` does not exist",
		`blockdev-add{ driver: "qcow2", file: 7 }`:                                                   "never fits",
		`uvbond-launch{ disks: [{ fd: 1, name: string }] }`:                                          "`uvbond-launch.disks[].fd` does not exist",
		`uvbond-launch`:                      "`uvbond-launch.disks` is demanded",
		`uvbond-read-console{ offset: "0" }`: "must be an integer",
		`uvbond-lunch`:                       `did you mean "uvbond-launch"?`,
		`query-status on abort sstop`:        `did you mean "stop"?`,
	} {
		got := findings(t, "automaton a = "+body+" ;")
		if len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), want) || !strings.HasPrefix(got[0], "automaton `a`: ") {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	got := findings(t, "part p = stopp ; automaton a = @p @p ; automaton b = @p ;")
	if len(got) != 1 || !strings.HasPrefix(got[0], "part `@p`: ") {
		t.Errorf("in a part: %q", got)
	}
	many := findings(t, "automaton a = "+strings.Repeat("x", 1)+strings.Join(names(200), " ")+" ;")
	if len(many) != 64 {
		t.Errorf("%d findings in a text of 200 faults", len(many))
	}
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "nothing" + strings.Repeat("y", i%26) + string(rune('a'+i/26)) + strings.Repeat("z", i%7)
	}
	return out
}

// TestShippedFitTheSchema: no automaton that ships speaks of what is not there.
func TestShippedFitTheSchema(t *testing.T) {
	for _, name := range automata.NativeNames() {
		text, err := automata.Native(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := findings(t, text); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFits(t *testing.T) {
	s := qemu(t)
	status, err := s.Command("query-status")
	if err != nil {
		t.Fatal(err)
	}
	type good struct {
		Running bool `json:"running"`
	}
	type typo struct {
		Runing bool `json:"runing"`
	}
	type wrong struct {
		Running int `json:"running"`
	}
	optional := func(typ *schema.Type) *schema.Type {
		out := &schema.Type{Kind: schema.KindObject}
		for _, m := range typ.Members {
			out.Members = append(out.Members, schema.Member{Name: m.Name, Type: m.Type, Optional: true})
		}
		return out
	}
	answer := optional(status.Returns)
	if err := answer.Fits(schema.Of[good]()); err != nil {
		t.Error(err)
	}
	if err := status.Returns.Fits(schema.Of[good]()); err == nil || !strings.Contains(err.Error(), "demanded") {
		t.Errorf("a member is missing: %v", err)
	}
	if err := answer.Fits(schema.Of[typo]()); err == nil || !strings.Contains(err.Error(), `"running"`) {
		t.Errorf("a misspelt member: %v", err)
	}
	if err := answer.Fits(schema.Of[wrong]()); err == nil {
		t.Error("an integer passed for a boolean")
	}
	if err := schema.Of[qmp.LaunchArgs]().Fits(schema.Of[qmp.LaunchArgs]()); err != nil {
		t.Error(err)
	}
}

func TestParseIsStrict(t *testing.T) {
	const builtin = `{"meta-type":"builtin","name":"int","json-type":"int"},{"meta-type":"object","name":"0","members":[]},`
	for what, text := range map[string]string{
		"not a list":          `{}`,
		"no commands":         `[]`,
		"unknown member":      `[` + builtin + `{"meta-type":"command","name":"a","arg-type":"0","ret-type":"0","x":1}]`,
		"unknown meta-type":   `[{"meta-type":"thing","name":"a"}]`,
		"unknown json-type":   `[{"meta-type":"builtin","name":"a","json-type":"date"}]`,
		"a type leads astray": `[` + builtin + `{"meta-type":"command","name":"a","arg-type":"0","ret-type":"9"}]`,
		"arguments no object": `[` + builtin + `{"meta-type":"command","name":"a","arg-type":"int","ret-type":"0"}]`,
		"command twice":       `[` + builtin + `{"meta-type":"command","name":"a","arg-type":"0","ret-type":"0"},{"meta-type":"command","name":"a","arg-type":"0","ret-type":"0"}]`,
		"type twice":          `[` + builtin + `{"meta-type":"object","name":"0","members":[]}]`,
		"tag is no member":    `[` + builtin + `{"meta-type":"object","name":"1","members":[],"tag":"t","variants":[]}]`,
	} {
		if _, err := schema.Parse("test", []byte(text)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := schema.Parse("test", []byte(`[`+builtin+`{"meta-type":"command","name":"a","arg-type":"0","ret-type":"int"}]`)); err != nil {
		t.Error(err)
	}
}
