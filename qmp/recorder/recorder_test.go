package recorder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/automaton"
)

func recorded(t *testing.T, o Options, stream string) []string {
	t.Helper()
	var out bytes.Buffer
	r := New(&out, o)
	if err := r.Stream(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestStream(t *testing.T) {
	stream := `{"QMP":{"version":{}}}` + "\r\n" + `{"execute":"qmp_capabilities","id":1}{"return":{},"id":1}
		{"execute":"qom-get","arguments":{"p":"a}{\"\\"}} {"event":"STOP","data":{}} {"error":{"class":"GenericError","desc":"<no>"}}`
	want := []string{
		`{"dir":"in","msg":{"QMP":{"version":{}}}}`,
		`{"dir":"out","msg":{"execute":"qmp_capabilities","id":1}}`,
		`{"dir":"in","msg":{"return":{},"id":1}}`,
		`{"dir":"out","msg":{"execute":"qom-get","arguments":{"p":"a}{\"\\"}}}`,
		`{"dir":"event","msg":{"event":"STOP","data":{}}}`,
		`{"dir":"in","msg":{"error":{"class":"GenericError","desc":"<no>"}}}`,
	}
	have := recorded(t, Options{}, stream)
	if !slices.Equal(have, want) {
		t.Errorf("have\n%s", strings.Join(have, "\n"))
	}
	// What was recorded is a stream, too.
	if again := recorded(t, Options{}, strings.Join(have, "\n")); !slices.Equal(again, want) {
		t.Errorf("again\n%s", strings.Join(again, "\n"))
	}
	rec, err := automaton.ReadRecording(strings.NewReader(strings.Join(have, "\n")))
	if err != nil || len(rec.Calls) != 2 || !rec.Calls[1].Failed || len(rec.Events) != 1 {
		t.Errorf("%+v, %v", rec, err)
	}
	now := time.Unix(100, 0)
	timed := recorded(t, Options{Now: func() time.Time { now = now.Add(250 * time.Millisecond); return now }}, `{"execute":"stop"}`)
	if want := `{"t":0.25,"dir":"out","msg":{"execute":"stop"}}`; timed[0] != want {
		t.Errorf("have %s", timed[0])
	}
}

// TestGate: only what stands inside of sessions is kept, without tickets.
func TestGate(t *testing.T) {
	have := recorded(t, Options{Gate: true}, `{"QMP":{}} {"execute":"qmp_capabilities"} {"return":{}}
		{"execute":"uvbond-open","arguments":{"vm":"x","ticket":"c2VjcmV0"}} {"return":{}} {"execute":"stop"} {"event":"STOP"} {"return":{}}
		{"execute":"uvbond-close"} {"return":{"receipt":"x"}} {"execute":"uvbond-query-vms"} {"return":[]}
		{"execute":"uvbond-open"} {"error":{}} {"execute":"cont"} {"error":{}}`)
	want := []string{`{"dir":"out","msg":{"execute":"stop"}}`, `{"dir":"event","msg":{"event":"STOP"}}`, `{"dir":"in","msg":{"return":{}}}`}
	if !slices.Equal(have, want) {
		t.Errorf("have\n%s", strings.Join(have, "\n"))
	}
}

func TestStreamRefuses(t *testing.T) {
	for stream, want := range map[string]string{
		`{"execute":"a"} {"execute":`: "object 2: it is cut off",
		`{"execute":"a"} hello`:       `object 2: there is 'h'`,
		`{"x":1}`:                     "object 1: it is no message",
		`{"execute":5}`:               "object 1",
		`[1]`:                         "object 1",
		`{"a" "b"}`:                   "no JSON",
		`}`:                           "there is '}'",
		`{"a":"` + strings.Repeat("x", MaxMessage) + `"}`: "larger than",
		`{"dir":"out","msg":{"return":{}}}`:               "no hypercall",
	} {
		if err := New(io.Discard, Options{}).Stream(strings.NewReader(stream)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", stream, err, want)
		}
	}
}

// pairOf returns both ends of a connection on a unix socket.
func pairOf(t *testing.T) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	one, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close(); two.Close() })
	return one, two
}

// TestRelay: bytes and descriptors arrive as they were sent, and are recorded.
func TestRelay(t *testing.T) {
	client, clientSide := pairOf(t)
	serverSide, server := pairOf(t)
	var out bytes.Buffer
	r := New(&out, Options{Now: time.Now})
	done := make(chan error, 1)
	go func() { done <- r.Relay(t.Context(), clientSide, serverSide) }()

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	request := `{"execute":"getfd","arguments":{"fdname":"f"}}` + "\n"
	if _, _, err := client.WriteMsgUnix([]byte(request), unix.UnixRights(int(f.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	buf, extra := make([]byte, 1000), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := server.ReadMsgUnix(buf, extra)
	if err != nil || string(buf[:n]) != request {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	fds := received(extra[:oobn])
	if len(fds) != 1 {
		t.Fatalf("%d descriptors", len(fds))
	}
	passed := os.NewFile(uintptr(fds[0]), "passed")
	defer passed.Close()
	if data, err := io.ReadAll(passed); err != nil || string(data) != "content" {
		t.Errorf("%q, %v", data, err)
	}
	answer := fmt.Sprintf(`{"return":%q}`, strings.Repeat("x", 200<<10)) + "\n"
	go server.Write([]byte(answer))
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != answer {
		t.Fatalf("the answer came as %d bytes, %v", len(got), err)
	}
	client.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"dir":"out","msg":{"execute":"getfd"`) || !strings.Contains(lines[0], `"fds":1`) {
		t.Errorf("have %.200q", lines)
	}
}

// TestRelayGoesOn: what is no QMP ends the recording, and not the session.
func TestRelayGoesOn(t *testing.T) {
	client, clientSide := pairOf(t)
	serverSide, server := pairOf(t)
	r := New(io.Discard, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Relay(ctx, clientSide, serverSide) }()
	for _, text := range []string{"HELLO", `{"execute":"stop"}`} {
		if _, err := client.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if r.Err() == nil {
		t.Error("the recording goes on")
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("it was interrupted, and that is no error")
	}
}

// FuzzStream: however a stream is cut into pieces, the same is recorded; and what
// is recorded can be read.
func FuzzStream(f *testing.F) {
	f.Add([]byte(`{"QMP":{}} {"execute":"a","arguments":{"x":"}{"}} {"return":1}`), uint8(3))
	f.Add([]byte(`{"dir":"out","msg":{"execute":"a"}}{"event":"X"}`), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var one, two bytes.Buffer
		err1 := New(&one, Options{}).Stream(bytes.NewReader(data))
		err2 := New(&two, Options{}).Stream(&pieces{data, int(size)%16 + 1})
		if (err1 == nil) != (err2 == nil) || one.String() != two.String() {
			t.Fatalf("%v and %v:\n%s\n%s", err1, err2, one.String(), two.String())
		}
		for _, line := range bytes.Split(bytes.TrimSpace(one.Bytes()), []byte("\n")) {
			if len(line) > 0 && !json.Valid(line) {
				t.Fatalf("%q", line)
			}
		}
	})
}

// pieces reads a few bytes at a time.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(p.size, len(p.data))])
	p.data = p.data[n:]
	return n, nil
}
