package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fakehost"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"uvbond": func() { os.Exit(Main()) }, "vncpicture": vncPicture})
}

type serverKey struct{}

// TestScript runs the scenarios of testdata/script against the real command
// line and a fake host.
func TestScript(t *testing.T) {
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Fatal("cryptsetup is missing: apt-get install cryptsetup-bin")
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing: apt-get install qemu-utils")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"evil":    func(ts *testscript.TestScript, _ bool, args []string) { server(ts).Evil(strings.Join(args, "")) },
			"json":    checkJSON,
			"parts":   noParts,
			"seed":    checkSeed,
			"server":  checkServer,
			"mkraw":   makeRaw,
			"offer":   offerBase,
			"sent":    checkSent,
			"waitfor": waitFor,
			"machine": machine,
		},
	})
}

func setup(env *testscript.Env) error {
	s, err := fakehost.New()
	if err != nil {
		return err
	}
	// The client drops connections on purpose; do not log that.
	s.HTTP.Config.ErrorLog = nil
	env.Defer(s.Close)
	env.Values[serverKey{}] = s
	env.Setenv("UVBOND_HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("UVBOND_TOKEN", fakehost.Token)
	env.Setenv("URL", s.HTTP.URL)
	env.Setenv("FP", s.Fingerprint())
	env.Setenv("TLSFP", s.TLSFingerprint())
	return errors.Join(
		os.WriteFile(filepath.Join(env.WorkDir, "pass"), []byte("correct horse\n"), 0o600),
		os.WriteFile(filepath.Join(env.WorkDir, "pass.exact"), []byte("correct horse"), 0o600))
}

func server(ts *testscript.TestScript) *fakehost.Server {
	return ts.Value(serverKey{}).(*fakehost.Server)
}

// exits runs uvbond and checks its exit code: exits CODE ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("uvbond", args[1:]...)
	have := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		have = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if have != want {
		ts.Fatalf("uvbond %s: exit code %d, want %d\n%s%s", strings.Join(args[1:], " "), have, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// checkJSON checks that a stream of the last command is JSON and holds a value
// at a path: json stdout|stderr PATH WANT
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for key := range strings.SplitSeq(args[1], ".") {
		switch c := v.(type) {
		case map[string]any:
			v = c[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(c) {
				ts.Fatalf("no element %s", key)
			}
			v = c[i]
		default:
			ts.Fatalf("nothing at %s", key)
		}
	}
	have, err := json.Marshal(v)
	ts.Check(err)
	if got := strings.Trim(string(have), `"`); (got == args[2]) == neg {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[2])
	}
}

// noParts checks that no half-made file is left in the folder.
func noParts(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && e.Name() != ".lock" && e.Name() != ".tmp" {
			ts.Fatalf("%s was left behind", e.Name())
		}
	}
}

// checkServer checks what the fake holds: server images|vms COUNT
func checkServer(ts *testscript.TestScript, _ bool, args []string) {
	have := server(ts).Images()
	if args[0] == "vms" {
		have = server(ts).VMs()
	}
	if strconv.Itoa(have) != args[1] {
		ts.Fatalf("the server has %d %s, want %s", have, args[0], args[1])
	}
}

// checkSeed compares a file of the first boot that a VM was registered with, or
// looks for a part of it: seed VM user-data|meta-data|vendor-data|network-config FILE|has TEXT
func checkSeed(ts *testscript.TestScript, neg bool, args []string) {
	s := server(ts).Seed(args[0])
	if s == nil {
		ts.Fatalf("%s has no first boot", args[0])
	}
	file := map[string]*bond.Secret{"user-data": s.UserData, "meta-data": s.MetaData, "vendor-data": s.VendorData, "network-config": s.NetworkConfig}[args[1]]
	have := string(file.Bytes())
	if args[2] != "has" {
		if have != ts.ReadFile(args[2]) {
			ts.Fatalf("%s is not the file %s:\n%s", args[1], args[2], have)
		}
	} else if strings.Contains(have, args[3]) == neg {
		ts.Fatalf("%s and %q:\n%s", args[1], args[3], have)
	}
}

// offerBase offers the content of a file as a base image, and may claim that it is
// another one: offer NAME FILE [OTHER]
func offerBase(ts *testscript.TestScript, _ bool, args []string) {
	said := ""
	if len(args) > 2 {
		sum := sha256.Sum256([]byte(ts.ReadFile(args[2])))
		said = hex.EncodeToString(sum[:])
	}
	server(ts).Offer(args[0], []byte(ts.ReadFile(args[1])), said)
}

// checkSent checks how much the client has sent so far: sent below BYTES
func checkSent(ts *testscript.TestScript, _ bool, args []string) {
	most, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	if n := server(ts).Received(); n >= most {
		ts.Fatalf("the client sent %d bytes, not below %d", n, most)
	}
}

// makeRaw writes a disk of SIZE bytes: mkraw NAME SIZE
func makeRaw(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	data := make([]byte, n)
	copy(data, "the secret file of the owner")
	copy(data[n-4:], "end.")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// waitFor waits until a file exists and is not empty.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	for range 200 {
		if st, err := os.Stat(ts.MkAbs(args[0])); err == nil && st.Size() > 0 {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("%s did not appear", args[0])
}
