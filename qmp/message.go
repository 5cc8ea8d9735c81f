package qmp

import (
	"encoding/json"
	"errors"
)

// Classes of Error.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"
	ClassDenied          = "Denied"
	ClassRefused         = "Refused"
	ClassRedirected      = "Redirected"
	ClassExpired         = "Expired"
	ClassReplayed        = "Replayed"
	ClassStale           = "Stale"
	ClassBusy            = "Busy"
	ClassNotRunning      = "NotRunning"
	ClassRunning         = "Running"
	ClassInvalid         = "Invalid"
	ClassDowngrade       = "Downgrade"
	ClassUnavailable     = "Unavailable"
	ClassInternal        = "Internal"
)

// Request is one command.
type Request struct {
	Execute   string
	Arguments map[string]any
	ID        json.RawMessage
}

// ParseRequest decodes one request strictly.
func ParseRequest(data []byte) (*Request, error) { return nil, errors.New("not implemented") }

// Response answers one request: Return or Error is set.
type Response struct {
	Return json.RawMessage `json:"return,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
}

// Error is a QMP error.
type Error struct {
	Class   string `json:"class"`
	Desc    string `json:"desc"`
	Receipt []byte `json:"receipt,omitempty"`
}

func (e *Error) Error() string { return e.Class + ": " + e.Desc }

// Event is an asynchronous message.
type Event struct {
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data,omitempty"`
	Timestamp Timestamp       `json:"timestamp"`
}

// Timestamp is the time of an event.
type Timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}
