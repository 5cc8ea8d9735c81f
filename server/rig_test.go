package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/cli"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/store"
)

// childEnv makes the test binary run uvbond-server with the arguments in it, so
// that a test can kill it.
const childEnv = "UVBOND_SERVER_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		os.Exit(cli.Run(context.Background(), strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// rig is a server with a fake gate.
type rig struct {
	t    *testing.T
	cfg  *config.Config
	gate *gatetest.Gate
	base string
	log  *buffer
	stop func() error
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newConfig(t *testing.T) *config.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Listen, cfg.DataDir, cfg.Gate = "127.0.0.1:0", filepath.Join(dir, "data"), filepath.Join(dir, "gate.sock")
	cfg.Limits.AuthFailures = 1000
	cfg.Limits.PollInterval = config.Duration(20 * time.Millisecond)
	cfg.Timeouts.Drain = config.Duration(5 * time.Second)
	return cfg
}

func start(t *testing.T, edit ...func(*config.Config)) *rig {
	t.Helper()
	cfg := newConfig(t)
	for _, e := range edit {
		e(cfg)
	}
	r := &rig{t: t, cfg: cfg, gate: gatetest.Start(t, cfg.Gate), log: &buffer{}}
	r.run()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("server: %v", err)
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

// run starts the server on the rig's data, again after stop.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{Config: r.cfg, Version: "test", Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Ready: func(a, _ net.Addr) { ready <- a }})
	}()
	select {
	case a := <-ready:
		r.base = "https://" + a.String()
	case err := <-ended:
		r.t.Fatalf("server did not start: %v", err)
	}
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
}

// spawn starts the server as a process of its own, so that a test can kill or measure it.
func (r *rig) spawn(file string) *exec.Cmd {
	r.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{"serve", "--json", "--config", file}, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	for s.Scan() {
		if _, rest, ok := strings.Cut(s.Text(), `"listen": "`); ok {
			r.base = "https://" + strings.Trim(rest, `",`)
			return cmd
		}
	}
	r.t.Fatal("the server did not start")
	return nil
}

func (r *rig) token(tenant string) string {
	r.t.Helper()
	st, err := store.Open(r.t.Context(), r.cfg.Database())
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	token, err := st.CreateToken(r.t.Context(), tenant, "", int64(r.cfg.Limits.Quota), int64(r.cfg.Limits.MaxVMs))
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

var httpClient = &http.Client{
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec // a test's own server
		ExpectContinueTimeout: 10 * time.Second},
	Timeout: 20 * time.Second,
}

// answer is a response read whole.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (a answer) text(key string) string { s, _ := a.body[key].(string); return s }

func (r *rig) do(token, method, path string, body any) answer {
	r.t.Helper()
	a, err := r.try(token, method, path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) try(token, method, path string, body any) (answer, error) {
	var reader io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		reader, kind = bytes.NewReader(b), "application/octet-stream"
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, r.base+path, reader)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if kind == "application/octet-stream" {
		// An answer that comes before the body was read would be lost with the
		// connection now and then.
		req.Header.Set("Expect", "100-continue")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	if len(raw) > 0 && raw[0] == '{' {
		if err := json.Unmarshal(raw, &a.body); err != nil {
			return a, fmt.Errorf("answer is no JSON: %w", err)
		}
	}
	return a, err
}

// want fails unless the answer has this status and, for an error, this class.
func (r *rig) want(a answer, status int, class string) answer {
	r.t.Helper()
	if a.status != status || class != "" && a.text("class") != class {
		r.t.Fatalf("answer %d %s, want %d %s: %s", a.status, a.text("class"), status, class, a.raw)
	}
	if a.status >= 400 {
		if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
			r.t.Fatalf("error answer of type %q", ct)
		}
		if a.text("detail") == "" || a.text("title") == "" || a.body["status"] != float64(status) {
			r.t.Fatalf("incomplete problem: %s", a.raw)
		}
	}
	return a
}

// sample is n bytes that differ everywhere.
func sample(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func announce(name string, data []byte) map[string]any {
	sum := sha256.Sum256(data)
	return map[string]any{"name": name, "size": len(data), "sha256": hex.EncodeToString(sum[:])}
}

// upload stores a whole image in one chunk.
func (r *rig) upload(token, name string, data []byte) string {
	r.t.Helper()
	id := r.want(r.do(token, "POST", "/v1/images", announce(name, data)), 200, "").text("id")
	a := r.want(r.do(token, "PUT", "/v1/images/"+id+"/data?offset=0", data), 200, "")
	if a.text("state") != "ready" {
		r.t.Fatalf("image is %s", a.raw)
	}
	return id
}

func vmID(n int) string { return fmt.Sprintf("%032x", n) }

func newVM(id, name, image string) map[string]any {
	return map[string]any{"id": id, "name": name, "disks": []any{map[string]any{"name": "root", "image": image}}, "registration": gatetest.Registration(id)}
}

func command(vm, name string) map[string]any {
	return map[string]any{"command": name, "ticket": gatetest.Ticket(vm, name)}
}

// register makes an image and a VM on it.
func (r *rig) register(token string, n int) (vm, image string) {
	r.t.Helper()
	image = r.upload(token, fmt.Sprintf("disk%d", n), append(sample(4096), byte(n)))
	r.want(r.do(token, "POST", "/v1/vms", newVM(vmID(n), fmt.Sprintf("web%d", n), image)), 200, "")
	return vmID(n), image
}

func (r *rig) run1(token, vm, name string) answer {
	r.t.Helper()
	return r.want(r.do(token, "POST", "/v1/vms/"+vm+"/commands", command(vm, name)), 200, "")
}
