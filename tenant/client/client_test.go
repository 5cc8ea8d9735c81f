package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) (*Client, string) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	pin := hex.EncodeToString(sum[:])
	c, err := New(Options{URL: s.URL, Token: "t", TLSPin: pin})
	if err != nil {
		t.Fatal(err)
	}
	return c, s.URL
}

func TestParseURL(t *testing.T) {
	for _, bad := range []string{"", "http://h:1", "https://", "ftp://h", "https://u:p@h", "https://h?x=1", "https://h#f", "h:8443", "https://\x00"} {
		if _, err := ParseURL(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if u, err := ParseURL("https://host:8443/"); err != nil || u.String() != "https://host:8443" {
		t.Errorf("%v, %v", u, err)
	}
}

func TestTLSPin(t *testing.T) {
	asked := false
	_, url := serve(t, func(w http.ResponseWriter, r *http.Request) { asked = true })
	c, err := New(Options{URL: url, Token: "secret", TLSPin: strings.Repeat("00", 32)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Host(t.Context()); !errors.Is(err, ErrTLSPin) {
		t.Fatalf("another TLS key: %v", err)
	}
	if asked {
		t.Fatal("a request, and so the token, went to a server with another TLS key")
	}
	if _, err := New(Options{URL: url, TLSPin: "zz"}); err == nil {
		t.Fatal("a damaged pin was taken")
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/host" {
			t.Errorf("followed to %s", r.URL.Path)
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	var api *APIError
	if _, err := c.Host(t.Context()); !errors.As(err, &api) || api.Status != http.StatusFound {
		t.Fatal(err)
	}
}

func TestAnswersAreCapped(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
		}
		junk := bytes.Repeat([]byte(" "), 1<<20)
		for range 40 {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	})
	if _, err := c.VMs(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	var api *APIError
	if _, err := c.Command(t.Context(), "x", Command{}); !errors.As(err, &api) {
		t.Fatal(err)
	}
}

func TestSentError(t *testing.T) {
	c, url := serve(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	var sent *SentError
	if _, err := c.Command(t.Context(), "x", Command{}); !errors.As(err, &sent) {
		t.Fatalf("dropped after sending: %v", err)
	}
	dead, err := New(Options{URL: "https://127.0.0.1:1", TLSPin: strings.Repeat("00", 32)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.Command(t.Context(), "x", Command{}); err == nil || errors.As(err, &sent) {
		t.Fatalf("never sent: %v", err)
	}
	_ = url
}

func TestPrintable(t *testing.T) {
	got := Printable("a\x1b[2Jb\n\x00c\u202ed" + strings.Repeat("x", 1000))
	if strings.ContainsAny(got, "\x1b\x00\n\u202e") || len(got) > 410 {
		t.Fatalf("%q", got)
	}
}

func TestProblem(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"title":"t","detail":"d\u001b[2J","class":"Busy"}`)
	})
	var api *APIError
	if _, err := c.Host(t.Context()); !errors.As(err, &api) || api.Class != "Busy" || api.Detail != "d[2J" || api.Offset != -1 {
		t.Fatalf("%+v", api)
	}
}

// TestPushRestart plays a server that forgets its unsynced tail when restarted, answers 503
// for a while, and loses an answer.
func TestPushRestart(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096) // 64 KiB
	sum := sha256.Sum256(data)
	var stored []byte
	n := 0
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		record := func() {
			state := ImageUploading
			if len(stored) == len(data) {
				state = ImageReady
			}
			fmt.Fprintf(w, `{"$schema":"x","id":"i","size":%d,"offset":%d,"state":%q,"chunk_size":8192}`, len(data), len(stored), state)
		}
		switch {
		case n%7 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodPost || r.Method == http.MethodGet:
			record()
		case n == 5:
			stored = stored[:4096]
			panic(http.ErrAbortHandler)
		default:
			body, _ := io.ReadAll(r.Body)
			var offset int
			_, _ = fmt.Sscan(r.URL.Query().Get("offset"), &offset)
			if offset != len(stored) {
				w.Header().Set("Upload-Offset", fmt.Sprint(len(stored)))
				w.WriteHeader(http.StatusConflict)
				return
			}
			stored = append(stored, body...)
			if n == 9 {
				panic(http.ErrAbortHandler)
			}
			record()
		}
	})
	retries := 0
	img, err := c.Push(t.Context(), Upload{Name: "n", Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Data: bytes.NewReader(data),
		Retry: func(error, time.Duration) { retries++ }, Backoff: func(int) time.Duration { return time.Millisecond }})
	if err != nil {
		t.Fatal(err)
	}
	if img.State != ImageReady || !bytes.Equal(stored, data) || retries == 0 {
		t.Fatalf("state %s, %d bytes, %d retries", img.State, len(stored), retries)
	}
}

func TestPushGivesUp(t *testing.T) {
	answers := map[string]string{
		"garbage":         `<html>`,
		"no id":           `{"state":"uploading"}`,
		"beyond the end":  `{"id":"i","offset":99999,"state":"uploading"}`,
		"negative offset": `{"id":"i","offset":-1,"state":"uploading"}`,
		"stuck":           `{"id":"i","offset":0,"state":"uploading"}`,
	}
	for name, text := range answers {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, text)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := c.Push(ctx, Upload{Name: "n", Size: 100, Data: bytes.NewReader(make([]byte, 100)), Backoff: func(int) time.Duration { return time.Millisecond }})
			if !errors.Is(err, ErrGarbage) {
				t.Fatal(err)
			}
		})
	}
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	tries := 0
	_, err := c.Push(t.Context(), Upload{Name: "n", Size: 100, Data: bytes.NewReader(make([]byte, 100)),
		Backoff: func(int) time.Duration { tries++; return time.Millisecond }})
	if err == nil || tries != uploadTries {
		t.Fatalf("%v after %d tries", err, tries)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{}`, `{"id":"a","receipt":"AAAA","chunks":["AA=="]}`, `[]`, `{"receipt":5}`, "\x00", `{"state":"\u001b[2J"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, out := range []any{new(Host), new(Image), new(VM), new(Outcome)} {
			err := decode(bytes.NewReader(data), 1<<16, out)
			if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
				t.Fatal("an escape character reached the message")
			}
		}
	})
}
