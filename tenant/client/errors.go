package client

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// ErrTLSPin says that the server showed another TLS key than the pinned one.
var ErrTLSPin = errors.New("the server's TLS key is not the pinned one")

// ErrTooLarge says that the server sent more than any honest answer needs.
var ErrTooLarge = errors.New("the server's answer is larger than any honest one")

// ErrGarbage says that the server's answer is not what the API promises.
var ErrGarbage = errors.New("the server's answer is not understood")

// APIError is an error answer of the server (RFC 9457 problem document). Its
// texts come from the untrusted server; they are made printable and short.
type APIError struct {
	Status int
	Title  string
	Detail string
	Class  string
	Offset int64 // of a 409 to an upload: the offset that the server has; -1 when it gave none
}

func (e *APIError) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if text == "" {
		return fmt.Sprintf("the server answered with status %d", e.Status)
	}
	return fmt.Sprintf("the server answered with status %d: %s", e.Status, text)
}

// SentError says that the connection failed after the request may have reached
// the server, so that nobody knows whether it was acted on.
type SentError struct{ Err error }

func (e *SentError) Error() string { return e.Err.Error() }
func (e *SentError) Unwrap() error { return e.Err }

// Printable returns text from another domain without control characters and
// cut to a length that fits a message, so that it cannot play with a terminal.
func Printable(s string) string {
	const most = 400
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	if len(clean) > most {
		clean = strings.ToValidUTF8(clean[:most], "") + "..."
	}
	return clean
}
