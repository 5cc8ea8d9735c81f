package server_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
)

const chunk = 8 << 20

// TestUploadChunks: several chunks, wrong offsets, the same upload again.
func TestUploadChunks(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	data := sample(chunk + chunk/2)
	first := r.want(r.do(tok, "POST", "/v1/images", announce("disk", data)), 200, "")
	id := first.text("id")
	if first.text("state") != "uploading" || first.body["offset"] != 0.0 || first.body["chunk_size"] != float64(chunk) {
		t.Fatal(first.raw)
	}
	url := "/v1/images/" + id + "/data?offset="
	a := r.want(r.do(tok, "PUT", url+"5", data[:10]), 409, "Offset")
	if a.header.Get("Upload-Offset") != "0" {
		t.Fatal(a.header)
	}
	r.want(r.do(tok, "PUT", url+"0", data[:chunk+1]), 413, "TooLarge")
	r.want(r.do(tok, "PUT", url+"0", []byte{}), 400, "Invalid")
	r.want(r.do(tok, "PUT", url+"-1", data[:5]), 422, "Invalid")
	a = r.want(r.do(tok, "PUT", url+"0", data[:chunk]), 200, "")
	if a.body["offset"] != float64(chunk) || a.text("state") != "uploading" {
		t.Fatal(a.raw)
	}
	a = r.want(r.do(tok, "POST", "/v1/images", announce("disk", data)), 200, "")
	if a.text("id") != id || a.body["offset"] != float64(chunk) {
		t.Fatalf("not resumed: %s", a.raw)
	}
	a = r.want(r.do(tok, "PUT", url+"0", data[:chunk]), 409, "Offset")
	if a.header.Get("Upload-Offset") != fmt.Sprint(chunk) {
		t.Fatal(a.header)
	}
	r.want(r.do(tok, "PUT", url+fmt.Sprint(chunk), append(data[chunk:], 1)), 413, "TooLarge")
	a = r.want(r.do(tok, "PUT", url+fmt.Sprint(chunk), data[chunk:]), 200, "")
	if a.text("state") != "ready" {
		t.Fatal(a.raw)
	}
	stored, err := os.ReadFile(filepath.Join(r.cfg.ImageDir(), id))
	if err != nil || !bytes.Equal(stored, data) {
		t.Fatal("stored data differs", err)
	}
	if a := r.want(r.do(tok, "POST", "/v1/images", announce("disk", data)), 200, ""); a.text("id") != id || a.text("state") != "ready" {
		t.Fatal(a.raw)
	}
	r.want(r.do(tok, "PUT", url+fmt.Sprint(len(data)), []byte("x")), 409, "Conflict")
	// An image that a VM has written to is no longer what was announced.
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(1), "web", id)), 200, "")
	if a := r.do(tok, "POST", "/v1/images", announce("disk", data)); a.text("id") == id || a.text("state") != "uploading" {
		t.Fatal(a.raw)
	}
}

func TestUploadWrongHash(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	data := sample(1000)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	data[500]++
	a := r.want(r.do(tok, "PUT", "/v1/images/"+id+"/data?offset=0", data), 200, "")
	if a.text("state") != "failed" || !strings.Contains(a.text("reason"), "SHA-256") {
		t.Fatal(a.raw)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.ImageDir(), id)); !os.IsNotExist(err) {
		t.Fatal("the data of a failed image stays")
	}
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(1), "web", id)), 409, "Conflict")
	data[500]--
	if again := r.upload(tok, "disk", data); again == id {
		t.Fatal("a failed image was taken up again")
	}
}

func TestContentDigest(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	data := sample(1000)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	put := func(digest string) int {
		req, err := http.NewRequest("PUT", r.base+"/v1/images/"+id+"/data?offset=0", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		req.Header.Set("Content-Digest", digest)
		resp, err := httpClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	sum, wrong := sha256.Sum256(data), sha256.Sum256(nil)
	if s := put("sha-256=:" + base64.StdEncoding.EncodeToString(wrong[:]) + ":"); s != 400 {
		t.Fatal(s)
	}
	if s := put("sha-256=nonsense"); s != 400 {
		t.Fatal(s)
	}
	if a := r.do(tok, "GET", "/v1/images/"+id, nil); a.body["offset"] != 0.0 {
		t.Fatal("a damaged chunk was kept")
	}
	if s := put("md5=:AAAA:, sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"); s != 200 {
		t.Fatal(s)
	}
}

func TestQuota(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Limits.Quota = 1000; c.Limits.MaxImages = 3 })
	tok := r.token("alice")
	first := r.upload(tok, "a", sample(600))
	a := r.want(r.do(tok, "POST", "/v1/images", announce("b", sample(401))), 413, "Quota")
	for _, number := range []string{"600", "1000", "401"} {
		if !strings.Contains(a.text("detail"), number) {
			t.Fatalf("%s is not in %s", number, a.raw)
		}
	}
	r.want(r.do(tok, "POST", "/v1/images", announce("b", sample(400))), 200, "")
	r.want(r.do(tok, "POST", "/v1/images", announce("c", sample(1))), 413, "Quota")
	r.want(r.do(tok, "DELETE", "/v1/images/"+first, nil), 204, "")
	r.want(r.do(tok, "POST", "/v1/images", announce("c", sample(1))), 200, "")
	r.want(r.do(tok, "POST", "/v1/images", announce("d", sample(2))), 200, "")
	r.want(r.do(tok, "POST", "/v1/images", announce("e", sample(3))), 403, "Quota")
	bad := announce("e", sample(3))
	bad["size"] = int64(1) << 60
	r.want(r.do(r.token("bob"), "POST", "/v1/images", bad), 422, "Invalid")
	bad["size"], bad["name"] = 3, "a\nb"
	r.want(r.do(r.token("bob"), "POST", "/v1/images", bad), 422, "Invalid")
	r.want(r.do(r.token("bob"), "POST", "/v1/images", map[string]any{"name": strings.Repeat("x", 30<<10), "size": 1, "sha256": ""}), 413, "TooLarge")
}

// dropped sends the beginning of a chunk over a connection of its own and cuts
// it.
func dropped(t *testing.T, base, token, path string, announced int, part []byte) {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(base, "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", path, token, announced)
	if _, err := c.Write(part); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
}

// TestUploadSurvives: a dropped connection and a restart lose at most the chunk
// that was on its way.
func TestUploadSurvives(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	data := sample(300_000)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	url := "/v1/images/" + id + "/data?offset="
	r.want(r.do(tok, "PUT", url+"0", data[:100_000]), 200, "")
	dropped(t, r.base, tok, url+"100000", 100_000, data[100_000:150_000])
	if a := r.want(r.do(tok, "GET", "/v1/images/"+id, nil), 200, ""); a.body["offset"] != 100_000.0 {
		t.Fatal(a.raw)
	}
	r.want(r.do(tok, "PUT", url+"100000", data[100_000:200_000]), 200, "")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want(r.do(tok, "PUT", url+"150000", data[150_000:]), 409, "Offset")
	if a := r.want(r.do(tok, "PUT", url+"200000", data[200_000:]), 200, ""); a.text("state") != "ready" {
		t.Fatal(a.raw)
	}
}

// TestUploadSurvivesKill: the server's process is killed again and again while
// chunks arrive; what it answered is there, and the end is right.
func TestUploadSurvivesKill(t *testing.T) {
	cfg := newConfig(t)
	gatetest.Start(t, cfg.Gate)
	file := filepath.Join(t.TempDir(), "server.toml")
	text := fmt.Sprintf("listen = %q\ndata_dir = %q\ngate = %q\n", cfg.Listen, cfg.DataDir, cfg.Gate)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, cfg: cfg}
	spawn := func() *exec.Cmd { return r.spawn(file) }
	cmd := spawn()
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	tok := r.token("alice")
	data := sample(6 << 20)
	id := r.want(r.do(tok, "POST", "/v1/images", announce("disk", data)), 200, "").text("id")
	known := 0
	for round := range 4 {
		killed := time.AfterFunc(time.Duration(20+30*round)*time.Millisecond, func() { cmd.Process.Kill() })
		for off := known; off < len(data); {
			a, err := r.try(tok, "PUT", fmt.Sprintf("/v1/images/%s/data?offset=%d", id, off), data[off:min(off+300_000, len(data))])
			if err != nil {
				break
			}
			r.want(a, 200, "")
			off = int(a.body["offset"].(float64))
			known = off
		}
		killed.Stop()
		cmd.Process.Kill()
		cmd.Wait()
		cmd = spawn()
		a := r.want(r.do(tok, "GET", "/v1/images/"+id, nil), 200, "")
		off := int(a.body["offset"].(float64))
		if off < known {
			t.Fatalf("offset %d was answered, %d is there", known, off)
		}
		known = off
		if info, err := os.Stat(filepath.Join(cfg.ImageDir(), id)); err == nil && info.Size() != int64(off) {
			t.Fatalf("file of %d bytes at offset %d", info.Size(), off)
		}
	}
	for known < len(data) {
		a := r.want(r.do(tok, "PUT", fmt.Sprintf("/v1/images/%s/data?offset=%d", id, known), data[known:min(known+2<<20, len(data))]), 200, "")
		known = int(a.body["offset"].(float64))
	}
	if a := r.want(r.do(tok, "GET", "/v1/images/"+id, nil), 200, ""); a.text("state") != "ready" {
		t.Fatal(a.raw)
	}
}

// TestTwoUploaders: two clients send the same image at once; both see it
// through.
func TestTwoUploaders(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	data := sample(2 << 20)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for off := 0; off < len(data); {
				a, err := r.try(tok, "PUT", fmt.Sprintf("/v1/images/%s/data?offset=%d", id, off), data[off:min(off+100_000, len(data))])
				if err != nil {
					t.Error(err)
					return
				}
				switch a.status {
				case 200:
					off = int(a.body["offset"].(float64))
				case 409:
					fmt.Sscan(a.header.Get("Upload-Offset"), &off)
				default:
					t.Error(a.raw)
					return
				}
			}
		})
	}
	work.Wait()
	if a := r.do(tok, "GET", "/v1/images/"+id, nil); a.text("state") != "ready" {
		t.Fatal(a.raw)
	}
}

// TestSlowClients: headers and bodies that never come end by a time-out, and
// the image is free for the next try.
func TestSlowClients(t *testing.T) {
	r := start(t, func(c *config.Config) {
		c.Timeouts.Header, c.Timeouts.Body, c.Timeouts.Chunk = config.Duration(300*time.Millisecond), config.Duration(300*time.Millisecond), config.Duration(300*time.Millisecond)
	})
	tok := r.token("alice")
	data := sample(1000)
	id := r.do(tok, "POST", "/v1/images", announce("disk", data)).text("id")
	begin := map[string]string{
		"header": "GET /v1/host HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"body":   "POST /v1/images HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tok + "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"chunk":  "PUT /v1/images/" + id + "/data?offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tok + "\r\nContent-Length: 1000\r\n\r\nabc",
	}
	for name, text := range begin {
		c, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		got, err := io.ReadAll(c)
		c.Close()
		if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
			t.Fatalf("%s: the connection stays open", name)
		}
		if name != "header" && !strings.Contains(string(got), "408 Request Timeout") {
			t.Errorf("%s: %s", name, got)
		}
	}
	r.want(r.do(tok, "PUT", "/v1/images/"+id+"/data?offset=0", data), 200, "")
}
