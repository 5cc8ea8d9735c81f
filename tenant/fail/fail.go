// Package fail gives every failure of the owner's client a class (which is
// also the exit code of uvbond), the words for a person, and a hint that says
// what to do next. It trusts nothing and holds no secret: what is put into an
// error is printed.
package fail

import (
	"context"
	"errors"
	"fmt"
)

// Code is the exit code of uvbond. Scripts treat a code that they do not know
// as a failure.
type Code int

// Exit codes. They are an interface: never renumber them.
const (
	Done        Code = 0   // done, and where a receipt is due, verified
	Other       Code = 1   // any other failure
	Usage       Code = 2   // wrong command line
	Refused     Code = 3   // the hypervisor (or the gate) refused; the VM was not touched, or the command ended incomplete
	Forged      Code = 4   // redirected or forged: an answer that is not from the bonded VM
	Unknown     Code = 5   // no receipt: nobody can say whether the command was executed
	Connection  Code = 6   // the server was not reached or did not understand
	Interrupted Code = 130 // Ctrl-C
)

// String names the class as --json prints it.
func (c Code) String() string {
	switch c {
	case Done:
		return "done"
	case Usage:
		return "usage"
	case Refused:
		return "refused"
	case Forged:
		return "forged"
	case Unknown:
		return "unknown"
	case Connection:
		return "connection"
	case Interrupted:
		return "interrupted"
	default:
		return "error"
	}
}

// Error is a failure with its class and a hint.
type Error struct {
	Code Code
	Text string // what failed, where; lower case, without a final stop
	Hint string // the next step; may be empty
	Err  error  // the cause; may be nil
	// Class is the gate's error class, from a verified receipt of a refusal; else empty.
	Class string
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	default:
		return e.Text + ": " + e.Err.Error()
	}
}

func (e *Error) Unwrap() error { return e.Err }

// New returns an error of a class with a hint.
func New(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

// Wrap puts words, a class and a hint around a cause.
func Wrap(err error, code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Text: fmt.Sprintf(format, args...), Err: err}
}

// CodeOf returns the class of an error: Done for nil, Interrupted when a
// cancelled context is the cause, Other when nothing else is known.
func CodeOf(err error) Code {
	if err == nil {
		return Done
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Other
}

// ClassOf returns the gate's error class of a verified refusal, or "".
func ClassOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Class != "" {
			return e.Class
		}
		err = e.Err
	}
	return ""
}

// HintOf returns the first hint found in the chain of an error.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
