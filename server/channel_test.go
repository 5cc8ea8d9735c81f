package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/relay"
)

// http1 is a client without HTTP/2, as WebSockets need it.
var http1 = &http.Client{Transport: &http.Transport{
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}, //nolint:gosec // a test's own server
}}

func (r *rig) dial(token, vm string, header ...string) (*websocket.Conn, *http.Response, error) {
	r.t.Helper()
	h := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, strings.Replace(r.base, "https", "wss", 1)+"/v1/vms/"+vm+"/channel", &websocket.DialOptions{HTTPClient: http1, HTTPHeader: h}) //nolint:bodyclose // the library's
	if err == nil {
		r.t.Cleanup(func() { c.CloseNow() })
	}
	return c, resp, err
}

// ask sends a first message and returns the answer.
func (r *rig) ask(c *websocket.Conn, hello string) map[string]any {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(hello)); err != nil {
		r.t.Fatal(err)
	}
	kind, data, err := c.Read(ctx)
	if err != nil || kind != websocket.MessageText {
		r.t.Fatal(kind, err)
	}
	var answer map[string]any
	if err := json.Unmarshal(data, &answer); err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// silent opens a WebSocket, says nothing, and waits to be told off.
func (r *rig) silent(token, vm string) bool {
	c, _, err := r.dial(token, vm) //nolint:bodyclose // the library's
	if err != nil {
		return false
	}
	go func() {
		for {
			if _, _, err := c.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return true
}

func hello(vm, kind string) string {
	return fmt.Sprintf(`{"kind":%q,"port":0,"ticket":%q}`, kind, base64.StdEncoding.EncodeToString(gatetest.Ticket(vm, kind)))
}

// open opens a channel of a VM that runs.
func (r *rig) open(token, vm string) (*websocket.Conn, net.Conn) {
	r.t.Helper()
	c, _, err := r.dial(token, vm) //nolint:bodyclose // the library's
	if err != nil {
		r.t.Fatal(err)
	}
	a := r.ask(c, hello(vm, "console"))
	receipt, err := base64.StdEncoding.DecodeString(fmt.Sprint(a["receipt"]))
	if err != nil || string(receipt) != "receipt console done" {
		r.t.Fatalf("answer %v", a)
	}
	return c, websocket.NetConn(context.Background(), c, websocket.MessageBinary)
}

func (r *rig) running(token string, n int) string {
	r.t.Helper()
	vm, _ := r.register(token, n)
	r.run1(token, vm, "start")
	return vm
}

// eventually waits for something that another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

func TestChannelRelaysBytes(t *testing.T) {
	r := start(t, func(c *config.Config) {
		c.Timeouts.Write, c.Timeouts.Body = config.Duration(time.Second/2), config.Duration(time.Second/2)
	})
	tok := r.token("alice")
	vm := r.running(tok, 1)
	_, c := r.open(tok, vm)
	data := sample(3 << 20)
	go func() {
		for i := 0; i < len(data); i += 100_000 {
			c.Write(data[i:min(i+100_000, len(data))]) //nolint:errcheck // the reader notices
		}
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatal("the echo differs", err)
	}
	// The times that bound requests do not cut a channel.
	time.Sleep(time.Second)
	if _, err := c.Write(data[:10]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got[:10]); err != nil || !bytes.Equal(got[:10], data[:10]) {
		t.Fatal("the channel was cut", err)
	}
	metrics := r.want(r.do("", "GET", "/metrics", nil), 200, "").raw
	for _, line := range []string{`uvbond_server_channels{kind="console"} 1`, `uvbond_server_channel_bytes_total{direction="up",kind="console"} 3.145738e+06`,
		`uvbond_server_channel_bytes_total{direction="down",kind="console"} 3.145738e+06`, `uvbond_server_channels_total{kind="console",outcome="done"} 1`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(metrics, vm) {
		t.Error("the metrics name the VM")
	}
	c.Close() //nolint:errcheck // the log tells how it ended
	eventually(t, "channel ended", func() bool { return strings.Contains(r.log.String(), "channel ended") })
	if log := r.log.String(); !strings.Contains(log, "by=client") || !strings.Contains(log, "up=3145738 down=3145738") {
		t.Error(log)
	}
}

// TestChannelEndsInOrder: what one end sent before it closed arrives, whichever it is.
func TestChannelEndsInOrder(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm := r.running(tok, 1)
	data := sample(300_000)
	got := make(chan []byte, 1)
	r.gate.Channels(func(c *net.UnixConn, _ map[string]any) {
		all, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		got <- all
	})
	ws, c := r.open(tok, vm)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, data) {
		t.Fatal("the keeper lost what came before the client's end")
	}
	r.gate.Channels(func(c *net.UnixConn, _ map[string]any) { c.Write(data) }) //nolint:errcheck // the reader notices
	_, c = r.open(tok, vm)
	if all, err := io.ReadAll(c); err != nil || !bytes.Equal(all, data) {
		t.Fatalf("the client lost what came before the keeper's end: %d bytes, %v", len(all), err)
	}
}

// TestChannelLastWords: what the keeper said before it closed arrives, also when the
// client is sending all the time and the keeper reads nothing of it.
func TestChannelLastWords(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm := r.running(tok, 1)
	r.gate.Channels(func(c *net.UnixConn, _ map[string]any) {
		io.ReadFull(c, make([]byte, 1000)) //nolint:errcheck // the client sends more
		c.Write([]byte("tampered"))        //nolint:errcheck // the reader notices
	})
	for range 30 {
		_, c := r.open(tok, vm)
		go func() {
			for {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		if all, err := io.ReadAll(c); err != nil || string(all) != "tampered" {
			t.Fatalf("the client read %q, %v", all, err)
		}
	}
}

// TestChannelClientGone: a connection that breaks ends the keeper's.
func TestChannelClientGone(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm := r.running(tok, 1)
	ended := make(chan struct{})
	r.gate.Channels(func(c *net.UnixConn, _ map[string]any) {
		io.Copy(io.Discard, c) //nolint:errcheck // any end will do
		close(ended)
	})
	ws, _ := r.open(tok, vm)
	ws.CloseNow() //nolint:errcheck // it is cut
	<-ended
}

func TestChannelRefusals(t *testing.T) {
	r := start(t, func(c *config.Config) {
		c.Timeouts.Header = config.Duration(time.Second)
		c.Limits.ChannelsPerTenant, c.Limits.Channels = 3, 4
	})
	tok, bob := r.token("alice"), r.token("bob")
	vm := r.running(tok, 1)
	handshake := func(token, vm string, status int, class string, header ...string) {
		t.Helper()
		_, resp, err := r.dial(token, vm, header...)
		if err == nil || resp == nil || resp.StatusCode != status {
			t.Fatalf("%v, want status %d", err, status)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(body), `"class":"`+class+`"`) {
			t.Fatalf("%s", body)
		}
	}
	handshake("bad", vm, 401, "Unauthorized")
	handshake(bob, vm, 404, "NotFound")
	handshake(tok, vmID(9), 404, "NotFound")
	handshake(tok, vm, 403, "Invalid", "Origin", "https://evil.example")
	handshake(tok, vm, 403, "Invalid", "Origin", strings.Replace(r.base, "https", "http", 1))
	if c, _, err := r.dial(tok, vm, "Origin", r.base); err != nil { //nolint:bodyclose // the library's
		t.Fatal(err)
	} else {
		c.CloseNow() //nolint:errcheck // it is cut
	}
	r.want(r.do(tok, "GET", "/v1/vms/"+vm+"/channel", nil), 426, "Invalid")

	refused := func(hello, class, detail string) map[string]any {
		t.Helper()
		var c *websocket.Conn
		var err error
		eventually(t, "a place", func() bool { c, _, err = r.dial(tok, vm); return err == nil }) //nolint:bodyclose // the library's
		a := r.ask(c, hello)
		if a["class"] != class || !strings.Contains(fmt.Sprint(a["detail"]), detail) || a["title"] == "" {
			t.Fatalf("answer %v, want %s %s", a, class, detail)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Fatalf("the socket does not end: %v", err)
		}
		return a
	}
	refused(`{"kind":"console"}`, "Invalid", "ticket")
	refused(`{"kind":"console","ticket":"YQ==","ticket":"YQ=="}`, "Invalid", "twice")
	refused(`{"kind":"Console!","ticket":"YQ=="}`, "Invalid", "kind")
	refused(`[]`, "Invalid", "object")
	refused(`{"kind":"console","ticket":"`+strings.Repeat("A", relay.MaxHello)+`"}`, "Invalid", "longer")
	refused(hello(vmID(7), "console"), "Redirected", "does not open")
	r.run1(tok, vm, "poweroff")
	if a := refused(hello(vm, "console"), "NotRunning", "no instance"); a["receipt"] != base64.StdEncoding.EncodeToString([]byte("receipt console refused")) {
		t.Fatalf("the receipt of a refusal: %v", a)
	}
	r.gate.Stop()
	refused(hello(vm, "console"), "Unavailable", "gate")
	if err := r.gate.Listen(); err != nil {
		t.Fatal(err)
	}

	// A client that says nothing is told so, and its place is free again.
	r.run1(tok, vm, "start")
	for range 3 { // earlier ones may not have left yet
		eventually(t, "a place", func() bool {
			return r.silent(tok, vm)
		})
	}
	handshake(tok, vm, 429, "TooMany")
	other := r.running(bob, 2)
	eventually(t, "places again", func() bool {
		return r.silent(tok, vm)
	})
	if !strings.Contains(r.log.String(), "no first message came in time") {
		t.Error("the log does not tell it")
	}
	r.open(bob, other)
	for range 3 {
		eventually(t, "a place for alice", func() bool {
			c, _, err := r.dial(tok, vm) //nolint:bodyclose // the library's
			return err == nil && r.ask(c, hello(vm, "console"))["receipt"] != nil
		})
	}
	handshake(bob, other, 503, "TooMany")
}

// TestChannelsAtStop: the clients are told, and nothing hangs, not even on one
// that takes nothing.
func TestChannelsAtStop(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Timeouts.Drain = config.Duration(2 * time.Second) })
	tok := r.token("alice")
	vm := r.running(tok, 1)
	flooded := make(chan struct{}, 1)
	r.gate.Channels(func(c *net.UnixConn, _ map[string]any) {
		zero := make([]byte, 1<<16)
		for {
			c.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a closed one fails below
			if _, err := c.Write(zero); err != nil {
				break
			}
		}
		flooded <- struct{}{}
		io.Copy(io.Discard, c) //nolint:errcheck // until it is closed
	})
	r.open(tok, vm) // and reads nothing
	<-flooded
	r.gate.Channels(nil)
	ws, _ := r.open(tok, vm)
	told := make(chan error, 1)
	go func() {
		_, _, err := ws.Read(context.Background())
		told <- err
	}()
	begin := time.Now()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := <-told; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Fatalf("the client was told %v", err)
	}
}

// TestIdleChannels: 200 that nobody uses cost the server less than 64 MiB and no more
// than two goroutines each, and every one still works.
func TestIdleChannels(t *testing.T) {
	const many = 200
	cfg := newConfig(t)
	file := filepath.Join(t.TempDir(), "server.toml")
	text := fmt.Sprintf("listen = \"127.0.0.1:0\"\ndata_dir = %q\ngate = %q\n", cfg.DataDir, cfg.Gate)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, cfg: cfg, gate: gatetest.Start(t, cfg.Gate)}
	cmd := r.spawn(file)
	defer func() { cmd.Process.Kill(); cmd.Wait() }() //nolint:errcheck // it is killed
	tok := r.token("alice")
	vm := r.running(tok, 1)
	_, c := r.open(tok, vm)
	before, goroutines := residentKiB(t, cmd.Process.Pid), r.goroutines()
	open := []net.Conn{c}
	for len(open) <= many {
		_, c := r.open(tok, vm)
		open = append(open, c)
	}
	if grew := residentKiB(t, cmd.Process.Pid) - before; grew > idleMemory {
		t.Errorf("%d idle channels take %d KiB", many, grew)
	}
	if more := r.goroutines() - goroutines; more > 2*many+20 {
		t.Errorf("%d idle channels have %d goroutines", many, more)
	}
	for i, c := range open {
		var b [1]byte
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(i, err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatal(i, err)
		}
	}
}

func (r *rig) goroutines() (n int) {
	r.t.Helper()
	for line := range strings.Lines(r.want(r.do("", "GET", "/metrics", nil), 200, "").raw) {
		if _, err := fmt.Sscanf(line, "go_goroutines %d", &n); err == nil {
			return n
		}
	}
	r.t.Fatal("the metrics lack go_goroutines")
	return 0
}

// residentKiB is what a process has in memory.
func residentKiB(t *testing.T, pid int) (n int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
