package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
)

// TestDisks: an owner sees limits and statistics of own VMs.
func TestDisks(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	if a := r.want(r.do(tok, "GET", "/v1/vms/"+vm+"/disks", nil), 200, ""); !strings.Contains(a.raw, `"disks":[]`) {
		t.Errorf("of a VM that does not run: %s", a.raw)
	}
	r.run1(tok, vm, "start")
	r.gate.Edit(vm, func(v *gatetest.VM) { v.Limits = []qmp.VMLimits{{Disk: "root", IOPS: 500}} })
	a := r.want(r.do(tok, "GET", "/v1/vms/"+vm+"/disks", nil), 200, "")
	for _, part := range []string{`"name":"root"`, `"front-end":"nbd"`, `"iops":500`, `"kind":"read"`, `"latency":[0,1,1,1]`} {
		if !strings.Contains(a.raw, part) {
			t.Errorf("no %s in %s", part, a.raw)
		}
	}
	if a := r.want(r.do(tok, "GET", "/v1/vms/"+vm, nil), 200, ""); !strings.Contains(a.raw, `"limits":[{"disk":"root","iops":500,"bytes":0,"burst":0}]`) {
		t.Errorf("the VM's record: %s", a.raw)
	}
	r.want(r.do(r.token("bob"), "GET", "/v1/vms/"+vm+"/disks", nil), 404, "NotFound")
	r.gate.Stop()
	r.want(r.do(tok, "GET", "/v1/vms/"+vm+"/disks", nil), 502, "Unavailable")
}

// TestDiskMetrics: the operator's listener has histograms of every disk, and
// what anybody can read does not name a VM.
func TestDiskMetrics(t *testing.T) {
	cfg := newConfig(t)
	cfg.MetricsListen = "127.0.0.1:0"
	g := gatetest.Start(t, cfg.Gate)
	vm := strings.Repeat("a", 32)
	g.Edit(vm, func(v *gatetest.VM) { v.State, v.Limits = qmp.StateRunning, []qmp.VMLimits{{Disk: "root", IOPS: 500}} })
	g.Edit(strings.Repeat("b", 32), func(v *gatetest.VM) {})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Ready: func(_, m net.Addr) { ready <- m }})
	}()
	scrape := func(address net.Addr) string {
		resp, err := http.Get("http://" + address.String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Status, err)
		}
		return string(b)
	}
	address := <-ready
	text := scrape(address)
	labels := `disk="root",`
	for _, line := range []string{
		`uvbond_disk_latency_seconds_bucket{` + labels + `kind="read",vm="` + vm + `",le="1e-06"} 0`,
		`uvbond_disk_latency_seconds_bucket{` + labels + `kind="read",vm="` + vm + `",le="4e-06"} 2`,
		`uvbond_disk_latency_seconds_bucket{` + labels + `kind="read",vm="` + vm + `",le="+Inf"} 3`,
		`uvbond_disk_latency_seconds_sum{` + labels + `kind="read",vm="` + vm + `"} 2.5`,
		`uvbond_disk_queue_depth_bucket{` + labels + `vm="` + vm + `",le="1"} 1`,
		`uvbond_disk_queue_depth_count{` + labels + `vm="` + vm + `"} 3`,
		`uvbond_disk_bytes_total{` + labels + `kind="read",vm="` + vm + `"} 8192`,
		`uvbond_disk_errors_total{` + labels + `kind="read",vm="` + vm + `"} 1`,
		`uvbond_disk_enciphered_bytes_total{` + labels + `vm="` + vm + `"} 8192`,
		`uvbond_disk_pending_requests{` + labels + `vm="` + vm + `"} 1`,
		`uvbond_disk_connections{` + labels + `front_end="nbd",vm="` + vm + `"} 2`,
		`uvbond_disk_limit{` + labels + `of="requests",vm="` + vm + `"} 500`,
		`uvbond_disk_size_bytes{` + labels + `vm="` + vm + `"} 1.073741824e+09`,
		`uvbond_disk_storage_connections{` + labels + `vm="` + vm + `"} 2`,
		`uvbond_disk_storage_events_total{` + labels + `event="lost",vm="` + vm + `"} 7`,
		"uvbond_server_requests_in_flight",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	g.Stop()
	if text := scrape(address); strings.Contains(text, "uvbond_disk_") {
		t.Errorf("statistics without a gate: %s", text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestGrow: the image grows before the gate is asked, within quota and disk, and
// never shrinks; the gate gets the file and the size.
func TestGrow(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Limits.Quota = 10 << 20 })
	tok := r.token("alice")
	vm, image := r.register(tok, 1)
	path := filepath.Join(r.cfg.ImageDir(), image)
	grow := func(disk string, size, stored uint64) answer {
		c := command(vm, "grow")
		c["params"] = map[string]any{"disk": disk, "size": size, "stored": stored}
		return r.do(tok, "POST", "/v1/vms/"+vm+"/commands", c)
	}
	length := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	r.want(grow("data", 8192, 9000), 422, "Invalid")
	r.want(grow("root", 8192, 4096), 422, "Invalid")
	r.want(grow("root", 1, 1), 422, "Invalid") // shorter than it is
	r.want(grow("root", 1<<60, 1<<60), 422, "Invalid")
	r.want(grow("root", 11<<20, 11<<20), 413, "Quota")
	if length() != 4097 {
		t.Fatalf("a refused growth left %d bytes", length())
	}
	var mu sync.Mutex // the gate's goroutine writes, too
	var got []byte
	var size int64
	r.gate.Handle(qmp.CmdGrow, func(c *gatetest.Call) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := c.Files[0].Stat()
		if err != nil {
			return nil, err
		}
		got, size = fmt.Appendf(got, "%v %v;", c.Arguments["disk"], c.Arguments["size"]), info.Size()
		return qmp.GrowResult{Old: 4096, New: 1 << 20, Guest: qmp.GuestTold}, nil
	})
	for range 2 { // asked again after a lost answer
		if a := r.want(grow("root", 1<<20, 1<<20+1), 200, ""); a.text("outcome") != "done" {
			t.Fatal(a.raw)
		}
	}
	mu.Lock()
	if string(got) != "root 1048576;root 1048576;" || size != 1<<20+1 || length() != 1<<20+1 {
		t.Errorf("the gate got %q and a file of %d bytes; the image has %d", got, size, length())
	}
	mu.Unlock()
	if a := r.want(r.do(tok, "GET", "/v1/images/"+image, nil), 200, ""); a.body["size"] != float64(1<<20+1) || a.text("state") != "ready" {
		t.Error(a.raw)
	}
	r.want(grow("root", 1<<19, 1<<19), 422, "Invalid")
	r.want(r.do(r.token("bob"), "POST", "/v1/vms/"+vm+"/commands", command(vm, "grow")), 404, "NotFound")
}
