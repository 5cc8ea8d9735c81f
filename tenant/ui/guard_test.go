package ui_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/tenant/ui"
	"github.com/uvbond/uvbond/tenant/ui/uitest"
)

// browser is a session as a browser has it.
type browser struct {
	t           *testing.T
	w           *uitest.World
	cookie, key string
	proof       string
}

// once is the token of a new link.
func once(w *uitest.World) string {
	_, token, _ := strings.Cut(w.Page.Link(), "#once=")
	return token
}

func login(t *testing.T, w *uitest.World) *browser {
	t.Helper()
	b := &browser{t: t, w: w}
	resp := b.do("POST", "/api/login", `{"once":"`+once(w)+`"}`)
	var out struct{ Key, Proof string }
	if err := json.Unmarshal([]byte(resp.body), &out); err != nil || resp.status != 200 || len(out.Key) < 22 || len(out.Proof) < 22 {
		t.Fatalf("login: %d %s", resp.status, resp.body)
	}
	c, err := http.ParseSetCookie(resp.header.Get("Set-Cookie"))
	if err != nil || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" {
		t.Fatalf("cookie %v: %v", c, err)
	}
	b.cookie, b.key, b.proof = c.Name+"="+c.Value, out.Key, out.Proof
	return b
}

type response struct {
	status int
	header http.Header
	body   string
}

// do sends a request as the page does; edit changes it.
func (b *browser) do(method, path, body string, edit ...func(*http.Request)) response {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.w.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if method != "GET" {
		r.Header.Set("Origin", b.w.URL)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
		r.Header.Set("X-Uvbond-Key", b.key)
	}
	for _, e := range edit {
		e(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, string(raw)}
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if value == "" {
			r.Header.Del(name)
			return
		}
		r.Header.Set(name, value)
	}
}

// TestLink: a link logs in once, not after its time, and a wrong one never.
func TestLink(t *testing.T) {
	var late atomic.Int64
	w := uitest.New(t, func(o *ui.Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) } })
	b := &browser{t: t, w: w}
	link := w.Page.Link()
	base, token, ok := strings.Cut(link, "/#once=")
	if !ok || base != w.URL || len(token) < 22 {
		t.Fatalf("link %q", link)
	}
	try := func(token string) int { return b.do("POST", "/api/login", fmt.Sprintf(`{"once":%q}`, token)).status }
	if try("") != 403 || try(token[1:]) != 403 || try(strings.ToLower(token)+"x") != 403 {
		t.Error("a wrong token logs in")
	}
	if try(token) != 200 {
		t.Fatal("the link does not log in")
	}
	if try(token) != 403 {
		t.Error("the link logs in twice")
	}
	token = once(w)
	late.Store(int64(ui.LinkLife + time.Second))
	if try(token) != 403 {
		t.Error("a link works after its time")
	}
	first := once(w)
	for range 8 {
		once(w)
	}
	if try(first) != 403 {
		t.Error("more links are kept than there should be")
	}
}

// TestSessions: cookie and key are both needed; a session ends by logging out, by
// idleness, and is crowded out by the seventeenth.
func TestSessions(t *testing.T) {
	var late atomic.Int64
	w := uitest.New(t, func(o *ui.Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) } })
	b, other := login(t, w), login(t, w)
	in := func(b *browser, edit ...func(*http.Request)) bool {
		return b.do("GET", "/api/state", "", edit...).status == 200
	}
	if !in(b) || !in(other) {
		t.Fatal("not logged in")
	}
	if in(b, header("Cookie", "")) || in(b, header("X-Uvbond-Key", "")) || in(b, header("X-Uvbond-Key", other.key)) || in(b, header("Cookie", other.cookie)) {
		t.Error("half of the proof is enough")
	}
	if !in(b, header("Sec-Fetch-Site", "")) {
		t.Error("a browser without fetch metadata is refused")
	}
	name, _, _ := strings.Cut(b.cookie, "=")
	if !in(b, header("Cookie", name+"=tossed; "+b.cookie+"; "+name+"=tossed too")) {
		t.Error("cookies that another port set end the session")
	}
	for _, path := range []string{"/api/state", "/api/vms/none"} {
		if got := b.do("GET", path, "").header.Get("X-Uvbond-Proof"); got != b.proof {
			t.Errorf("%s bears the proof %q, want %q", path, got, b.proof)
		}
	}
	for _, r := range []response{b.do("GET", "/api/state", "", header("Cookie", "")), b.do("GET", "/api/state", "", header("X-Uvbond-Key", other.key)), b.do("GET", "/", "")} {
		if got := r.header.Get("X-Uvbond-Proof"); got != "" {
			t.Errorf("who has half of a session gets its proof %q", got)
		}
	}
	late.Add(int64(ui.DefaultIdle - time.Minute))
	if b.do("POST", "/api/active", "").status != 200 {
		t.Fatal("active")
	}
	late.Add(int64(2 * time.Minute))
	if !in(b) {
		t.Error("an active session ended")
	}
	if in(other) {
		t.Error("an idle session lives: asking for news keeps it alive")
	}
	if b.do("POST", "/api/logout", "").status != 200 || in(b) {
		t.Error("logged out, and still in")
	}
	first := login(t, w)
	for range 16 {
		login(t, w)
	}
	if in(first) {
		t.Error("too many sessions are kept")
	}
}

// TestOrigins: what other sites can make a browser send is refused, and a name that
// was pointed at this address (DNS rebinding) is another host.
func TestOrigins(t *testing.T) {
	w := uitest.New(t, nil)
	b := login(t, w)
	_, port, _ := strings.Cut(strings.TrimPrefix(w.URL, "http://"), ":")
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	for _, c := range []struct {
		name, method, path string
		status             int
		edit               []func(*http.Request)
	}{
		{"the page itself", "GET", "/", 200, nil},
		{"a link from elsewhere", "GET", "/", 200, []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}},
		{"rebinding, page", "GET", "/", 421, []func(*http.Request){host("evil.example:" + port)}},
		{"rebinding, data", "GET", "/api/state", 421, []func(*http.Request){host("evil.example:" + port)}},
		{"another name of the loopback", "GET", "/api/state", 421, []func(*http.Request){host("localhost:" + port)}},
		{"without a port", "GET", "/api/state", 421, []func(*http.Request){host("127.0.0.1")}},
		{"script of another site", "GET", "/api/state", 403, []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}},
		{"script of another port", "GET", "/api/state", 403, []func(*http.Request){header("Sec-Fetch-Site", "same-site")}},
		{"asset for another site", "GET", "/assets/x.js", 403, []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}},
		{"other origin, GET", "GET", "/api/state", 403, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Origin", "http://evil.example")}},
		{"other origin, POST", "POST", "/api/logout", 403, []func(*http.Request){header("Sec-Fetch-Site", ""), header("Origin", "http://evil.example")}},
		{"no origin, POST", "POST", "/api/logout", 403, []func(*http.Request){header("Origin", "")}},
		{"null origin, POST", "POST", "/api/logout", 403, []func(*http.Request){header("Origin", "null")}},
		{"other port's origin, POST", "POST", "/api/logout", 403, []func(*http.Request){header("Origin", "http://127.0.0.1:1")}},
		{"login from elsewhere", "POST", "/api/login", 403, []func(*http.Request){header("Origin", "http://evil.example")}},
		{"a form", "POST", "/api/vms/web1/command", 415, []func(*http.Request){header("Content-Type", "text/plain")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			body := ""
			if c.method == "POST" {
				body = `{"command":"start"}`
			}
			r := b.do(c.method, c.path, body, c.edit...)
			if r.status != c.status {
				t.Errorf("%d, want %d: %s", r.status, c.status, r.body)
			}
			csp := r.header.Get("Content-Security-Policy")
			if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
				t.Errorf("policy %q", csp)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY"} {
				if got := r.header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if cors := r.header.Get("Access-Control-Allow-Origin"); cors != "" {
				t.Errorf("CORS allows %q", cors)
			}
		})
	}
}

// TestSockets: a WebSocket needs the page's origin and both secrets, and ends with the
// session.
func TestSockets(t *testing.T) {
	opened := make(chan net.Conn, 8)
	w := uitest.New(t, func(o *ui.Options) {
		o.Dial = func(context.Context, string, string, uint16) (net.Conn, error) {
			here, there := net.Pipe()
			opened <- there
			return here, nil
		}
	})
	b := login(t, w)
	dial := func(origin, cookie, key string) (*websocket.Conn, int) {
		h := http.Header{}
		if origin != "" {
			h.Set("Origin", origin)
		}
		h.Set("Cookie", cookie)
		c, resp, err := websocket.Dial(t.Context(), w.URL+"/api/vms/web1/screen", &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{"uvbond.1", "uvbond.key." + key}})
		if err != nil {
			return nil, resp.StatusCode
		}
		return c, 101
	}
	for _, c := range []struct {
		name, origin, cookie, key string
		want                      int
	}{
		{"no origin", "", b.cookie, b.key, 403},
		{"other origin", "http://evil.example", b.cookie, b.key, 403},
		{"other port", "http://127.0.0.1:1", b.cookie, b.key, 403},
		{"no cookie", w.URL, "", b.key, 401},
		{"no key", w.URL, b.cookie, "", 401},
	} {
		if _, status := dial(c.origin, c.cookie, c.key); status != c.want {
			t.Errorf("%s: %d, want %d", c.name, status, c.want)
		}
	}
	c, status := dial(w.URL, b.cookie, b.key)
	if status != 101 || c.Subprotocol() != "uvbond.1" {
		t.Fatalf("status %d", status)
	}
	defer c.CloseNow()
	far := <-opened
	go func() { _, _ = far.Write([]byte("RFB 003.008\n")) }()
	if _, data, err := c.Read(t.Context()); err != nil || string(data) != "RFB 003.008\n" {
		t.Fatalf("%q %v", data, err)
	}
	if err := c.Write(t.Context(), websocket.MessageBinary, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q %v", buf, err)
	}
	b.do("POST", "/api/logout", "")
	_, _, err := c.Read(t.Context())
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("after the logout: %v", err)
	}
	if _, err := far.Read(buf); err == nil {
		t.Error("the channel stays open")
	}
}

// TestScreenEnds: a message that is too long, or of the wrong kind, ends the WebSocket
// and the channel; the end of the channel ends the WebSocket and says why.
func TestScreenEnds(t *testing.T) {
	opened := make(chan net.Conn, 1)
	w := uitest.New(t, func(o *ui.Options) {
		o.Dial = func(_ context.Context, vm, _ string, _ uint16) (net.Conn, error) {
			if vm == "gone" {
				return nil, fmt.Errorf("it was redirected")
			}
			here, there := net.Pipe()
			opened <- there
			return here, nil
		}
	})
	b := login(t, w)
	dial := func(vm string) *websocket.Conn {
		h := http.Header{"Origin": {w.URL}, "Cookie": {b.cookie}}
		c, _, err := websocket.Dial(t.Context(), w.URL+"/api/vms/"+vm+"/screen", &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{"uvbond.1", "uvbond.key." + b.key}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, send := range map[string]func(*websocket.Conn) error{
		"text": func(c *websocket.Conn) error { return c.Write(t.Context(), websocket.MessageText, []byte("{}")) },
		"too long": func(c *websocket.Conn) error {
			return c.Write(t.Context(), websocket.MessageBinary, make([]byte, 1<<17))
		},
	} {
		c := dial("web1")
		far := <-opened
		_ = send(c)
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the channel carries it", name)
		}
		if _, _, err := c.Read(t.Context()); err == nil {
			t.Errorf("%s: the WebSocket stays open", name)
		}
	}
	c := dial("web1")
	(<-opened).Close()
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the channel's end: %v", err)
	}
	if _, _, err := dial("gone").Read(t.Context()); err == nil || !strings.Contains(err.Error(), "redirected") {
		t.Errorf("a channel that does not open: %v", err)
	}
}

// TestBodies: requests are bounded and read strictly.
func TestBodies(t *testing.T) {
	w := uitest.New(t, nil)
	b := login(t, w)
	for body, want := range map[string]int{
		`{"command":"` + strings.Repeat("x", 70<<10) + `"}`: 413,
		`{"command":"start","more":1}`:                      400,
		`{"command":"start"}{}`:                             400,
		`{"command":1}`:                                     400,
		`[]`:                                                400,
		`{"command":"delete"}`:                              400,
		`{"command":"audit"}`:                               400,
		`{"command":"start"}`:                               404, // there is no such VM
	} {
		if r := b.do("POST", "/api/vms/web1/command", body); r.status != want {
			t.Errorf("%.40s: %d, want %d: %s", body, r.status, want, r.body)
		}
	}
	for _, path := range []string{"/assets/..%2findex.html", "/assets/nothing.js", "/assets/%2e%2e%2f%2e%2e%2fembed.go", "/nothing", "/api/nothing"} {
		if r := b.do("GET", path, ""); r.status != 404 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	for _, name := range []string{"..%2f..%2fhosts", "%00", strings.Repeat("a", 100)} {
		if r := b.do("GET", "/api/vms/"+name+"/timeline", ""); r.status != 404 {
			t.Errorf("VM %s: %d %s", name, r.status, r.body)
		}
	}
}

// TestSlowRequest: a request whose body does not come loses its connection. Everybody on
// the machine can send one.
func TestSlowRequest(t *testing.T) {
	ui.SetBodyTimeout(t, 50*time.Millisecond)
	w := uitest.New(t, nil)
	b := login(t, w)
	host := strings.TrimPrefix(w.URL, "http://")
	for _, method := range []string{"POST /api/login", "POST /api/nothing", "GET /"} {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", method, host, w.URL)
		if _, err := io.Copy(io.Discard, c); err != nil { // it would wait for ever
			t.Errorf("%s: %v", method, err)
		}
	}
	w.Pin(t)
	w.Create(t, "web1", termsOf("observe"))
	w.Host.Step = func(string) { time.Sleep(60 * time.Millisecond) }
	if lines := b.run("start"); lines[len(lines)-1].Result.Outcome != "done" { // an answer may take longer
		t.Errorf("%+v", lines[len(lines)-1].Result)
	}
}

// TestNoSecrets: what the page gets holds no key, token or descriptor.
func TestNoSecrets(t *testing.T) {
	w := uitest.New(t, nil)
	w.Pin(t)
	w.Create(t, "web1", termsOf("maintain"))
	b := login(t, w)
	if r := b.do("POST", "/api/vms/web1/command", `{"command":"start"}`); !strings.Contains(r.body, `"outcome":"done"`) {
		t.Fatal(r.body)
	}
	vm, err := w.Owner.Store.VM("web1")
	if err != nil {
		t.Fatal(err)
	}
	host, err := w.Owner.Store.Host("lab")
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, path := range []string{"/api/session", "/api/state", "/api/guide", "/api/vms/web1", "/api/vms/web1/access", "/api/vms/web1/timeline"} {
		r := b.do("GET", path, "")
		if r.status != 200 {
			t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
		all.WriteString(r.body)
	}
	bond, err := os.ReadFile(w.Owner.Store.Dir() + "/vms/web1/bond")
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{"token": []byte(host.Token), "descriptor": vm.Descriptor, "bond": bond} {
		for form, text := range forms(secret) {
			if strings.Contains(all.String(), text) {
				t.Errorf("the page gets the %s in %s", name, form)
			}
		}
	}
}
