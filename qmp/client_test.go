package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// serve answers requests on one end of a socket pair with handle, and returns
// a client on the other end.
func serve(t *testing.T, handle func(c *Conn, r *Request, line *Line)) *Client {
	t.Helper()
	a, b := socketPair(t)
	go func() {
		c := NewConn(a)
		defer c.Close()
		if err := c.Send(Greeting{}); err != nil {
			return
		}
		for {
			line, err := c.Receive(context.Background())
			if err != nil {
				return
			}
			r, err := ParseRequest(line.Data)
			if err != nil {
				t.Error(err)
			}
			if r.Execute == CmdCapabilities {
				reply(c, r.ID, nil, nil)
			} else {
				handle(c, r, line)
			}
			line.Close()
		}
	}()
	client, err := NewClient(testContext(t), NewConn(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func reply(c *Conn, id json.RawMessage, result any, fault *Error) {
	if r, err := Respond(id, result, fault); err == nil {
		_ = c.Send(r)
	}
}

func TestExecute(t *testing.T) {
	c := serve(t, func(c *Conn, r *Request, line *Line) {
		switch r.Execute {
		case CmdOpen:
			reply(c, r.ID, OpenResult{Session: r.Arguments["vm"].(string)}, nil)
		case CmdLaunch:
			text, _ := io.ReadAll(io.NewSectionReader(line.Files[0], 0, 10))
			reply(c, r.ID, nil, Errorf(ClassBusy, "%s", text))
		}
	})
	var got OpenResult
	if err := c.Execute(testContext(t), CmdOpen, OpenArgs{VM: "x"}, &got); err != nil || got.Session != "x" {
		t.Fatalf("%+v, %v", got, err)
	}
	err := c.Execute(testContext(t), CmdLaunch, LaunchArgs{}, nil, tempFile(t, "busy file"))
	if ClassOf(err) != ClassBusy || err.Error() != "uvbond-launch: Busy: busy file" {
		t.Fatalf("got %v", err)
	}
	if err := c.Execute(testContext(t), CmdOpen, OpenArgs{VM: "x"}, new(int)); err == nil {
		t.Fatal("an object was decoded into a number")
	}
}

// Answers may come in any order and many callers may wait.
func TestExecuteConcurrently(t *testing.T) {
	var mu sync.Mutex
	var held []*Request
	const callers = 20
	c := serve(t, func(c *Conn, r *Request, _ *Line) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, r)
		if len(held) < callers {
			return
		}
		for i := len(held) - 1; i >= 0; i-- {
			reply(c, held[i].ID, held[i].Arguments["n"], nil)
		}
	})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var n int
			if err := c.Execute(testContext(t), "echo", map[string]int{"n": i}, &n); err != nil || n != i {
				t.Errorf("caller %d got %d, %v", i, n, err)
			}
		})
	}
	wg.Wait()
}

func TestExecuteDeadline(t *testing.T) {
	c := serve(t, func(c *Conn, r *Request, _ *Line) {
		if r.Execute == "slow" {
			time.Sleep(100 * time.Millisecond)
		}
		reply(c, r.ID, r.Execute, nil)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	// The late answer must not be taken for this one.
	var got string
	if err := c.Execute(testContext(t), "fast", nil, &got); err != nil || got != "fast" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestBrokenConnectionFailsAllCalls(t *testing.T) {
	for name, last := range map[string]string{
		"closed": "", "garbage": "}\n", "answer to nothing": `{"return":{},"id":1000}` + "\n", "half a line": `{"ret`,
		"malformed": `{"error":{"class":"GenericError","desc":"JSON parse error"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			waiting := 0
			c := serve(t, func(c *Conn, _ *Request, _ *Line) {
				mu.Lock()
				defer mu.Unlock()
				if waiting++; waiting == 5 {
					_, _ = c.c.Write([]byte(last))
					c.c.Close()
				}
			})
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if err := c.Execute(testContext(t), "wait", nil, nil); err == nil || !strings.Contains(err.Error(), "connection lost") {
						t.Errorf("got %v", err)
					}
				})
			}
			wg.Wait()
			<-c.Done()
			if err := c.Execute(testContext(t), "late", nil, nil); err == nil {
				t.Error("a dead connection was used")
			}
			if _, open := <-c.Events(); open {
				t.Error("events are still open")
			}
		})
	}
}

func TestClose(t *testing.T) {
	c := serve(t, func(*Conn, *Request, *Line) {})
	time.AfterFunc(10*time.Millisecond, func() { c.Close() })
	if err := c.Execute(testContext(t), "wait", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil || !errors.Is(c.Err(), ErrClosed) {
		t.Fatal(err, c.Err())
	}
}

func TestEventsDropTheOldest(t *testing.T) {
	c := serve(t, func(c *Conn, r *Request, _ *Line) {
		for i := range EventBuffer + 10 {
			_ = c.Send(Event{Event: fmt.Sprint(i)})
		}
		reply(c, r.ID, nil, nil)
	})
	if err := c.Execute(testContext(t), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	for i := 10; i < EventBuffer+10; i++ {
		if e := <-c.Events(); e.Event != fmt.Sprint(i) {
			t.Fatalf("event %s, want %d", e.Event, i)
		}
	}
}

func TestHandshakeWithAStranger(t *testing.T) {
	for name, first := range map[string]string{"http": "HTTP/1.1 400 Bad Request\r\n", "no greeting": `{"return":{}}` + "\n", "closed": ""} {
		a, b := socketPair(t)
		write(t, a, first+" ")
		a.Close()
		if _, err := NewClient(testContext(t), NewConn(b)); err == nil || !strings.Contains(err.Error(), "greeting") {
			t.Errorf("%s: %v", name, err)
		}
	}
	a, b := socketPair(t)
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewClient(ctx, NewConn(b)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent peer: %v", err)
	}
	if _, err := Dial(testContext(t), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("connected to nothing")
	}
}

// startQEMU runs a QEMU without a machine and returns its monitor's path.
func startQEMU(t *testing.T) string {
	t.Helper()
	const name = "qemu-system-x86_64"
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: apt-get install qemu-system-x86", name)
	}
	path := filepath.Join(t.TempDir(), "qmp")
	cmd := exec.Command(name, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:"+path+",server=on,wait=off")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return path
		}
	}
	t.Fatal("QEMU does not open its monitor")
	return ""
}

func TestRealQEMU(t *testing.T) {
	c, err := Dial(testContext(t), startQEMU(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Greeting().QMP.Version.QEMU.Major < 7 {
		t.Errorf("greeting %+v", c.Greeting())
	}
	var status StatusResult
	if err := c.Execute(testContext(t), CmdQueryStatus, nil, &status); err != nil || status.Status == "" {
		t.Fatalf("%+v, %v", status, err)
	}
	var schema []any
	if err := c.Execute(testContext(t), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 500 {
		t.Fatalf("%d entries, %v", len(schema), err)
	}
	// getfd takes the descriptor that came beside the request.
	name := map[string]string{"fdname": "x"}
	if err := c.Execute(testContext(t), "getfd", name, nil, tempFile(t, "f")); err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(testContext(t), "closefd", name, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(testContext(t), "getfd", name, nil); ClassOf(err) != ClassGeneric {
		t.Fatalf("getfd without a descriptor: %v", err)
	}
	if err := c.Execute(testContext(t), "no-such-command", nil, nil); ClassOf(err) != ClassCommandNotFound {
		t.Fatal(err)
	}
	if err := c.Execute(testContext(t), CmdQuit, nil, nil); err != nil {
		t.Fatal(err)
	}
	saw := false
	for e := range c.Events() {
		saw = saw || e.Event == "SHUTDOWN" && e.Timestamp.Seconds > 0
	}
	if !saw {
		t.Error("no SHUTDOWN event before the monitor closed")
	}
	if err := c.Execute(testContext(t), CmdQueryStatus, nil, nil); err == nil {
		t.Error("QEMU answered after quit")
	}
}
