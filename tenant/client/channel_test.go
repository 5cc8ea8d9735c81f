package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// channels serves WebSockets: answer is sent to the first message, then f has it.
func channels(t *testing.T, answer string, f func(*websocket.Conn)) *Client {
	t.Helper()
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t" || r.URL.Path != "/v1/vms/id/channel" || r.ProtoMajor != 1 {
			t.Errorf("request %s %s %v", r.Proto, r.URL, r.Header)
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		_, data, err := ws.Read(r.Context())
		var ask Channel
		if err != nil || json.Unmarshal(data, &ask) != nil || ask.Kind != "forward" || ask.Port != 22 || string(ask.Ticket) != "ticket" {
			t.Errorf("first message %q, %v", data, err)
		}
		if ws.Write(r.Context(), websocket.MessageText, []byte(answer)) == nil && f != nil {
			f(ws)
		}
	})
	return c
}

var ask = Channel{Kind: "forward", Port: 22, Ticket: []byte("ticket")}

func TestOpenChannel(t *testing.T) {
	c := channels(t, `{"receipt":"cmVjZWlwdA=="}`, func(ws *websocket.Conn) {
		for {
			kind, data, err := ws.Read(context.Background())
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
					t.Errorf("the stream ended with %v", err)
				}
				return
			}
			if err := ws.Write(context.Background(), kind, data); err != nil {
				t.Error(err)
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, receipt, err := c.OpenChannel(ctx, "id", ask)
	if err != nil || string(receipt) != "receipt" {
		t.Fatal(err, receipt)
	}
	cancel() // is for the opening only
	data := make([]byte, 30_000)
	rand.Read(data)
	for range 20 {
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
			t.Fatal("the echo differs", err)
		}
	}
	pending := make(chan error)
	go func() {
		_, err := s.Read(make([]byte, 1))
		pending <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-pending; err == nil {
		t.Fatal("a pending read did not end")
	}
	if err := s.Close(); err != nil {
		t.Fatal("closing again:", err)
	}
}

func TestChannelEnds(t *testing.T) {
	for code, want := range map[websocket.StatusCode]string{websocket.StatusNormalClosure: "EOF", websocket.StatusGoingAway: "the server ended the connection: it [31mstops"} {
		c := channels(t, `{}`, func(ws *websocket.Conn) {
			ws.Write(context.Background(), websocket.MessageBinary, []byte("last")) //nolint:errcheck // the client notices
			ws.Close(code, "it \x1b[31mstops")                                      //nolint:errcheck // as above
		})
		s, _, err := c.OpenChannel(t.Context(), "id", ask)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		text := "EOF"
		if err != nil {
			text = err.Error()
		}
		if string(got) != "last" || text != want {
			t.Errorf("code %d: %q, %s", code, got, text)
		}
		s.Close()
	}
}

// TestCloseDoesNotHang: not on a server that takes nothing, and says nothing.
func TestCloseDoesNotHang(t *testing.T) {
	release := make(chan struct{})
	c := channels(t, `{}`, func(*websocket.Conn) { <-release })
	defer close(release)
	s, _, err := c.OpenChannel(t.Context(), "id", ask)
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan error)
	go func() {
		for {
			if _, err := s.Write(make([]byte, 1<<16)); err != nil {
				stuck <- err
				return
			}
		}
	}()
	time.Sleep(300 * time.Millisecond)
	s.Close()
	<-stuck
}

func TestChannelRefused(t *testing.T) {
	var refused *RefusalError
	c := channels(t, `{"title":"Refused","detail":"no\u001b[2J such","class":"Stale","receipt":"cg=="}`, nil)
	if _, _, err := c.OpenChannel(t.Context(), "id", ask); !errors.As(err, &refused) || refused.Class != "Stale" || refused.Detail != "no[2J such" || string(refused.Receipt) != "r" {
		t.Fatalf("%+v", err)
	}
	var sent *SentError
	for _, answer := range []string{"<html>", `{"receipt":"` + strings.Repeat("A", maxReceipt) + `"}`} {
		c = channels(t, answer, nil)
		if _, _, err := c.OpenChannel(t.Context(), "id", ask); !errors.As(err, &sent) {
			t.Errorf("%.20s: %v", answer, err)
		}
	}
	c, _ = serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"title":"t","detail":"no VM","class":"NotFound"}`) //nolint:errcheck // a test's
	})
	var api *APIError
	if _, _, err := c.OpenChannel(t.Context(), "id", ask); !errors.As(err, &api) || api.Status != 404 || api.Class != "NotFound" {
		t.Fatal(err)
	}
	c, _ = serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	if _, _, err := c.OpenChannel(t.Context(), "id", ask); !errors.As(err, &api) || api.Status != 302 {
		t.Fatal("a redirect was followed", err)
	}
	_, url := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the token went to a server with another key") })
	c, err := New(Options{URL: url, Token: "t", TLSPin: strings.Repeat("00", 32)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.OpenChannel(t.Context(), "id", ask); !errors.Is(err, ErrTLSPin) {
		t.Fatal(err)
	}
}

// TestChannelGivenUp: the opening ends with its context.
func TestChannelGivenUp(t *testing.T) {
	release := make(chan struct{})
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err == nil {
			defer ws.CloseNow()
			<-release
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := c.OpenChannel(ctx, "id", ask); err == nil {
		t.Fatal("opened")
	}
}
