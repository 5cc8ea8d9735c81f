package gate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// TestLimitsAndStatistics need no session; limits that starve a guest are refused.
func TestLimitsAndStatistics(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	id := f.a.id.String()
	for name, args := range map[string]qmp.SetLimitsArgs{
		"few requests": {VM: id, Disk: "root", IOPS: qmp.MinLimitIOPS - 1},
		"few bytes":    {VM: id, Disk: "root", Bytes: qmp.MinLimitBytes - 1},
		"long burst":   {VM: id, Disk: "root", Burst: qmp.MaxLimitBurst + 1},
		"no VM":        {VM: "web1", Disk: "root"},
	} {
		if got := class(t, run(t, c, qmp.CmdSetLimits, args)); got != qmp.ClassInvalid {
			t.Errorf("%s: %q", name, got)
		}
	}
	if err := run(t, c, qmp.CmdSetLimits, qmp.SetLimitsArgs{VM: id, Disk: "root", IOPS: 500}); err != nil {
		t.Fatal(err)
	}
	var r qmp.QueryDisksResult
	if err := c.Execute(t.Context(), qmp.CmdQueryDisks, qmp.QueryDisksArgs{VM: id}, &r); err != nil || len(r.Disks) != 1 || r.Disks[0].Limits.IOPS != 500 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := class(t, run(t, c, qmp.CmdQueryDisks, qmp.QueryDisksArgs{VM: strings.Repeat("0", 31) + "1"})); got != qmp.ClassDeviceNotFound {
		t.Errorf("unknown VM: %q", got)
	}
}

// TestGrow: the size is the ticket's to say, and the receipt has both sizes.
func TestGrow(t *testing.T) {
	f := newFixture(t)
	text, err := automata.Grow("root", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	exact := func(k *bond.Ticket) { k.Command, k.Automaton, k.Descriptor = "grow", text, nil }
	for name, args := range map[string]qmp.GrowArgs{"other size": {Disk: "root", Size: 2 << 30}, "other disk": {Disk: "data", Size: 1 << 30}} {
		c := f.dial()
		sealed, _ := f.ticket(f.a, "grow", exact)
		if err := open(t, c, f.a, sealed); err != nil {
			t.Fatal(err)
		}
		if got := class(t, run(t, c, qmp.CmdGrow, args)); got != qmp.ClassRefused {
			t.Errorf("%s: %q", name, got)
		}
		c.Close()
	}
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "grow", exact)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var r qmp.GrowResult
	if err := c.Execute(t.Context(), qmp.CmdGrow, qmp.GrowArgs{Disk: "root", Size: 1 << 30}, &r, file); err != nil || r.Old != 1<<20 || r.New != 1<<30 {
		t.Fatalf("%+v, %v", r, err)
	}
	receipt := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
	if receipt.Verdict != bond.VerdictDone || len(receipt.Calls) != 1 || receipt.Calls[0].Detail != "from 1048576 to 1073741824 bytes; the guest: told" {
		t.Errorf("%+v", receipt)
	}
	if ran := f.a.ran(); !slices.Equal(ran, []string{"grow root to 1073741824, file true"}) {
		t.Errorf("%q", ran)
	}
}

// TestBuild: the disk is the ticket's to say, two descriptors come along, in their
// order, every time, and the receipt says how far it is.
func TestBuild(t *testing.T) {
	f := newFixture(t)
	text, err := automata.Build("root")
	if err != nil {
		t.Fatal(err)
	}
	exact := func(k *bond.Ticket) { k.Command, k.Automaton, k.Descriptor = "build", text, nil }
	var files []*os.File
	for _, name := range []string{"base", "image", "more"} {
		file, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files = append(files, file)
	}
	there := &qmp.Place{Storage: "ceph1", Export: "web1"}
	for name, c := range map[string]struct {
		disk  string
		place *qmp.Place
		files []*os.File
		class string
	}{
		"another disk": {"data", nil, files[:2], qmp.ClassRefused}, "no files": {"root", nil, nil, qmp.ClassInvalid},
		"one file": {"root", nil, files[:1], qmp.ClassInvalid}, "three files": {"root", nil, files, qmp.ClassInvalid},
		"another disk there": {"data", there, files[:1], qmp.ClassRefused}, "no files for there": {"root", there, nil, qmp.ClassInvalid},
		"a file and a place": {"root", there, files[:2], qmp.ClassInvalid}, "an address": {"root", &qmp.Place{Storage: "nbd://10.0.0.1", Export: "x"}, files[:1], qmp.ClassRefused},
		"a strange export": {"root", &qmp.Place{Storage: "ceph1", Export: "a b"}, files[:1], qmp.ClassRefused},
	} {
		conn := f.dial()
		sealed, ticket := f.ticket(f.a, "build", exact)
		if err := open(t, conn, f.a, sealed); err != nil {
			t.Fatal(err)
		}
		if got := class(t, conn.Execute(t.Context(), qmp.CmdBuild, qmp.BuildArgs{Disk: c.disk, Place: c.place}, nil, c.files...)); got != c.class {
			t.Errorf("%s: %q", name, got)
		}
		if r := f.receipt(f.a, closeSession(t, conn).Receipt, ticket); r.Verdict != bond.VerdictRefused {
			t.Errorf("%s: %+v", name, r)
		}
		conn.Close()
	}
	conn := f.dial()
	if err := open(t, conn, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if got := class(t, conn.Execute(t.Context(), qmp.CmdBuild, qmp.BuildArgs{Disk: "root"}, nil, files[:2]...)); got != qmp.ClassDenied {
		t.Errorf("without a ticket: %q", got)
	}
	conn.Close()
	if ran := f.a.ran(); len(ran) != 0 {
		t.Errorf("reached the VM: %q", ran)
	}
	conn = f.dial()
	sealed, ticket := f.ticket(f.a, "build", exact)
	if err := open(t, conn, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	var r qmp.BuildState
	for range 2 {
		if err := conn.Execute(t.Context(), qmp.CmdBuild, qmp.BuildArgs{Disk: "root"}, &r, files[0], files[1]); err != nil || r.Total != 7 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if err := conn.Execute(t.Context(), qmp.CmdBuild, qmp.BuildArgs{Disk: "root", Place: there}, &r, files[0]); err != nil {
		t.Fatal(err)
	}
	receipt := f.receipt(f.a, closeSession(t, conn).Receipt, ticket)
	if receipt.Verdict != bond.VerdictDone || len(receipt.Calls) != 3 || receipt.Calls[1].Detail != r.Detail() || !strings.Contains(r.Detail(), "made: root") {
		t.Errorf("%+v", receipt)
	}
	if ran := f.a.ran(); len(ran) != 3 || ran[0] != "build root from true to true" || ran[2] != "build root from true to ceph1:web1" {
		t.Errorf("%q", ran)
	}
}
