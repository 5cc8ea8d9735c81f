package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"
)

// handshakeTime is how long a handshake may take in all.
const handshakeTime = 30 * time.Second

// messageSize is the length of both handshake messages: a public key and the tag of
// an empty payload.
const messageSize = 32 + tagSize

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)

// Open makes a channel as the tenant. It takes over raw, also when it fails. raw is a stream
// whose Close ends pending reads and writes. Errors are *Error, but for wrong parameters and ctx's.
func Open(ctx context.Context, raw io.ReadWriteCloser, p Params) (*Conn, error) {
	return handshake(ctx, raw, p, true)
}

// Accept makes a channel as the hypervisor. All else is as for Open.
func Accept(ctx context.Context, raw io.ReadWriteCloser, p Params) (*Conn, error) {
	return handshake(ctx, raw, p, false)
}

func handshake(ctx context.Context, raw io.ReadWriteCloser, p Params, initiator bool) (*Conn, error) {
	if err := p.check(); err != nil {
		raw.Close()
		return nil, err
	}
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeNN, Initiator: initiator,
		Prologue: p.prologue(), PresharedKey: p.Key.Bytes(), PresharedKeyPlacement: 0,
	})
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("channel: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(limited, func() { raw.Close() })
	exchange := respond
	if initiator {
		exchange = initiate
	}
	ours, theirs, err := exchange(raw, hs)
	if !stop() && err == nil {
		err = limited.Err()
	}
	if err != nil {
		raw.Close()
		return nil, handshakeError(ctx, limited, err)
	}
	out, in := ours.UnsafeKey(), theirs.UnsafeKey()
	return newConn(raw, p, newDirection(&out), newDirection(&in)), nil
}

func initiate(raw io.ReadWriter, hs *noise.HandshakeState) (ours, theirs *noise.CipherState, err error) {
	first, _, _, err := hs.WriteMessage(make([]byte, 0, messageSize), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("channel: %w", err)
	}
	if _, err := raw.Write(first); err != nil {
		return nil, nil, &Error{Why: Truncated, Err: err}
	}
	var second [messageSize]byte
	if err := readMessage(raw, &second); err != nil {
		return nil, nil, err
	}
	_, ours, theirs, err = hs.ReadMessage(nil, second[:])
	if err != nil {
		return nil, nil, &Error{Why: Redirected}
	}
	return ours, theirs, nil
}

func respond(raw io.ReadWriter, hs *noise.HandshakeState) (ours, theirs *noise.CipherState, err error) {
	var first [messageSize]byte
	if err := readMessage(raw, &first); err != nil {
		return nil, nil, err
	}
	if _, _, _, err := hs.ReadMessage(nil, first[:]); err != nil {
		raw.Write(make([]byte, messageSize)) // does not open either: the tenant learns it, too
		return nil, nil, &Error{Why: Redirected}
	}
	second, theirs, ours, err := hs.WriteMessage(make([]byte, 0, messageSize), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("channel: %w", err)
	}
	if _, err := raw.Write(second); err != nil {
		return nil, nil, &Error{Why: Truncated, Err: err}
	}
	return ours, theirs, nil
}

func readMessage(raw io.Reader, m *[messageSize]byte) error {
	if _, err := io.ReadFull(raw, m[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return &Error{Why: Truncated, Reason: "during the handshake", Err: err}
	}
	return nil
}

// handshakeError puts the reason for closing raw in the place of what raw said then.
func handshakeError(ctx, limited context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("channel: handshake: %w", context.Cause(ctx))
	case limited.Err() != nil:
		return &Error{Why: TimedOut, Reason: "the other end did not complete the handshake"}
	}
	return err
}
