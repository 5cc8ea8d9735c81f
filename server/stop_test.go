package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
)

// TestGracefulStop: a chunk on its way is stored, a shutdown that only waits is
// closed in order, new connections are refused.
func TestGracefulStop(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.run1(tok, vm, "start")
	data := sample(1000)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	looking := make(chan struct{})
	once := sync.OnceFunc(func() { close(looking) })
	r.gate.Handle(qmp.CmdSystemPowerdown, func(*gatetest.Call) (any, error) { return nil, nil })
	r.gate.Handle(qmp.CmdQueryStatus, func(*gatetest.Call) (any, error) {
		once()
		return qmp.StatusResult{Status: qmp.StateRunning, Running: true}, nil
	})
	c, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT /v1/images/%s/data?offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n%s", id, tok, data[:400])
	var work sync.WaitGroup
	var shut answer
	work.Go(func() { shut, err = r.try(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "shutdown")) })
	<-looking
	time.Sleep(50 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	time.Sleep(100 * time.Millisecond)
	if _, err := c.Write(data[400:]); err != nil {
		t.Fatal(err)
	}
	got, rerr := io.ReadAll(c)
	if rerr != nil && !errors.Is(rerr, io.ErrUnexpectedEOF) || !strings.Contains(string(got), `"ready"`) {
		t.Fatalf("the chunk was cut off: %s %v", got, rerr)
	}
	work.Wait()
	if err != nil || shut.text("outcome") != "error" || shut.text("receipt") == "" {
		t.Fatalf("the command was cut off: %v %s", err, shut.raw)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if _, err := r.try(tok, "GET", "/healthz", nil); err == nil {
		t.Fatal("still serving")
	}
}

func TestLimits(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Limits.PerTenant, c.Limits.Commands, c.Limits.AuthFailures = 2, 1, 3 })
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	open, entered := make(chan struct{}), make(chan struct{}, 4)
	r.gate.Handle(qmp.CmdQueryStatus, func(*gatetest.Call) (any, error) {
		entered <- struct{}{}
		<-open
		return qmp.StatusResult{Status: qmp.StateShutdown}, nil
	})
	r.gate.Handle(qmp.CmdQueryHost, func(*gatetest.Call) (any, error) {
		entered <- struct{}{}
		<-open
		return nil, gatetest.ErrDrop
	})
	var work sync.WaitGroup
	work.Go(func() { r.try(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "status")) })
	<-entered
	a := r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "status")), 503, "TooMany")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	work.Go(func() { r.try(tok, "GET", "/v1/host", nil) })
	<-entered
	r.want(r.do(tok, "GET", "/v1/images", nil), 429, "TooMany")
	r.want(r.do(r.token("bob"), "GET", "/v1/images", nil), 200, "")
	close(open)
	work.Wait()
	for range 3 {
		r.want(r.do("bad", "GET", "/v1/images", nil), 401, "Unauthorized")
	}
	r.want(r.do("bad", "GET", "/v1/images", nil), 429, "TooMany")
	r.want(r.do(tok, "GET", "/v1/images", nil), 200, "") // a good token is not held up
}

func TestMetrics(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, image := r.register(tok, 1)
	r.run1(tok, vm, "start")
	r.do("bad", "GET", "/v1/images/"+image, nil)
	a := r.want(r.do("", "GET", "/metrics", nil), 200, "")
	for _, line := range []string{
		`uvbond_server_requests_total{route="POST /v1/vms/{id}/commands",status="200"} 1`, "uvbond_server_auth_failures_total 1",
		"uvbond_server_gate_up 1", `uvbond_server_gate_calls_total{class="ok",command="uvbond-launch"} 1`, "uvbond_server_uploaded_bytes_total 4097",
	} {
		if !strings.Contains(a.raw, line) {
			t.Errorf("no %s", line)
		}
	}
	for _, secret := range []string{"alice", vm, image, tok} {
		if strings.Contains(a.raw, secret) {
			t.Errorf("the metrics show %s", secret)
		}
	}
	if a := r.want(r.do("", "GET", "/healthz", nil), 200, ""); a.text("gate") != "reachable" {
		t.Error(a.raw)
	}
}

func TestMetricsListener(t *testing.T) {
	cfg := newConfig(t)
	cfg.MetricsListen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan [2]net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Ready: func(a, m net.Addr) { ready <- [2]net.Addr{a, m} }})
	}()
	addrs := <-ready
	resp, err := http.Get("http://" + addrs[1].String() + "/metrics")
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	if resp, err = httpClient.Get("https://" + addrs[0].String() + "/metrics"); err != nil || resp.StatusCode != 404 {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestStartErrors: each names the thing and the next step.
func TestStartErrors(t *testing.T) {
	r := start(t)
	run := func(c *config.Config) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return server.Run(ctx, server.Options{Config: c, Log: slog.New(slog.DiscardHandler)})
	}
	if err := run(r.cfg); !errors.Is(err, server.ErrLocked) {
		t.Errorf("second server: %v", err)
	}
	c := newConfig(t)
	c.Listen = strings.TrimPrefix(r.base, "https://")
	if err := run(c); err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Errorf("port taken: %v", err)
	}
	cert, _ := c.CertFiles()
	_, key := c.CertFiles()
	before, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := run(c); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("key gone: %v", err)
	}
	if after, _ := os.ReadFile(cert); string(before) != string(after) {
		t.Error("the certificate changed silently")
	}
}
