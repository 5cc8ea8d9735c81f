package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"
)

// stream is a raw stream that was recorded: what it has is read, what is written goes nowhere.
type stream struct{ bytes.Reader }

func (s *stream) Write(p []byte) (int, error) { return len(p), nil }
func (s *stream) Close() error                { return nil }

func seeds(f *testing.F) ownVectors {
	f.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		f.Fatal(err)
	}
	var v ownVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		f.Fatal(err)
	}
	if len(v.Tenant) < 4 || len(v.Hypervisor) < 3 {
		f.Fatal("testdata/vectors.json has no messages")
	}
	return v
}

// FuzzAccept: whatever comes instead of a tenant, Accept ends with a reason, and nothing
// but the one tenant's first message opens.
func FuzzAccept(f *testing.F) {
	v := seeds(f)
	f.Add([]byte(v.Tenant[0].Wire))
	f.Add([]byte(v.Hypervisor[0].Wire))
	f.Add([]byte(v.Tenant[0].Wire[:20]))
	f.Add(bytes.Repeat([]byte{0}, messageSize))
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\nxxxxxxxxx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := Accept(ctx, &stream{*bytes.NewReader(data)}, params())
		switch why := WhyOf(err); {
		case err == nil && !bytes.HasPrefix(data, v.Tenant[0].Wire):
			t.Error("a first message that the tenant did not make opens")
		case err == nil:
			c.Close()
		case len(data) < messageSize && why != Truncated, len(data) >= messageSize && why != Redirected:
			t.Errorf("%d bytes: %v", len(data), err)
		}
	})
}

// FuzzRecords: whatever an operator makes of a stream of records, Read returns a beginning of what was sent,
// and an end only where there was one.
func FuzzRecords(f *testing.F) {
	key := [32]byte{3}
	out := newDirection(&key)
	const text = "first second"
	var records [][]byte
	for _, r := range []struct {
		kind    kind
		payload string
	}{{kindData, "first "}, {kindPing, ""}, {kindData, "second"}, {kindEnd, ""}, {kindClose, Done}} {
		buf := make([]byte, headerSize+len(r.payload)+tagSize)
		copy(buf[headerSize:], r.payload)
		b, err := out.seal(buf, r.kind, len(r.payload))
		if err != nil {
			f.Fatal(err)
		}
		records = append(records, b)
	}
	all := bytes.Join(records, nil)
	f.Add(all)
	f.Add(all[:len(all)-1])
	f.Add(bytes.Join([][]byte{records[0], records[2], records[1]}, nil))
	f.Add(bytes.Join([][]byte{records[0], records[0]}, nil))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00garbage that is long enough"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, own := [32]byte{3}, [32]byte{4}
		c := newConn(&stream{*bytes.NewReader(data)}, params(), newDirection(&own), newDirection(&in))
		defer c.Close()
		got, err := io.ReadAll(c)
		if !bytes.HasPrefix([]byte(text), got) {
			t.Errorf("read %q", got)
		}
		if whole := bytes.Join(records[:4], nil); (err == nil) != bytes.HasPrefix(data, whole) {
			t.Errorf("read %q, %v", got, err)
		}
		if err == nil && string(got) != text {
			t.Errorf("an end after %q", got)
		}
	})
}

// FuzzPeer: the other end holds the key and is hostile. Whatever headers it seals, the channel ends
// with a reason or waits for more, and no more than a record is held.
func FuzzPeer(f *testing.F) {
	f.Add(byte(kindData), uint16(0), []byte("x"))
	f.Add(byte(kindData), uint16(tagSize), []byte{})
	f.Add(byte(kindPing), uint16(1), []byte("x"))
	f.Add(byte(kindClose), uint16(65535), []byte("x"))
	f.Add(byte(kindClose), uint16(18), []byte("\x1b["))
	f.Add(byte(0), uint16(0), []byte{})
	f.Add(byte(255), uint16(17), []byte("x"))
	f.Fuzz(func(t *testing.T, k byte, size uint16, payload []byte) {
		payload = payload[:min(len(payload), maxData)]
		key, own, in := [32]byte{3}, [32]byte{4}, [32]byte{3}
		out := newDirection(&key)
		buf := make([]byte, headerSize+len(payload)+tagSize)
		copy(buf[headerSize:], payload)
		record, err := out.seal(buf, kind(k), len(payload))
		if err != nil {
			t.Fatal(err)
		}
		// The header again, with the length of the fuzzer's choice.
		header := []byte{k, byte(size >> 8), byte(size)}
		nonce := noiseNonce(0)
		out.now.Load().aead.Seal(record[counterSize:counterSize], nonce[:], header, nil)
		c := newConn(&stream{*bytes.NewReader(record)}, params(), newDirection(&own), newDirection(&in))
		defer c.Close()
		got, err := io.ReadAll(c)
		honest := int(size) == len(record)-headerSize
		switch {
		case len(got) > 0 && (kind(k) != kindData || !honest || !bytes.Equal(got, payload)):
			t.Errorf("kind %d, size %d: read %q", k, size, got)
		case err == nil && kind(k) != kindEnd && !(kind(k) == kindClose && honest && string(payload) == Done):
			t.Errorf("kind %d, size %d: an end in order", k, size)
		}
	})
}
