// Package problem is the one error type that crosses the server's API: an
// HTTP status, a class for programs and a sentence for people (RFC 9457).
//
// Every text in a Problem reaches a tenant. Nothing of another tenant, no path
// and no token belongs in it.
package problem

import (
	"errors"
	"fmt"
	"net/http"
)

// Classes that the server gives beside those of the gate (package qmp).
const (
	ClassUnauthorized = "Unauthorized" // no token, or one that is not known
	ClassNotFound     = "NotFound"     // no such thing, or not this tenant's
	ClassConflict     = "Conflict"     // the thing is in another state than the request needs
	ClassOffset       = "Offset"       // an upload goes on elsewhere than the request says
	ClassQuota        = "Quota"        // the tenant's share is used up
	ClassNoSpace      = "NoSpace"      // the server's disk is full
	ClassTooLarge     = "TooLarge"     // the body is over the route's limit
	ClassTooMany      = "TooMany"      // too many requests, or too many failures
	ClassInvalid      = "Invalid"      // the request cannot be right
	ClassBusy         = "Busy"         // somebody else is at it; try again
	ClassUnavailable  = "Unavailable"  // the gate cannot be reached
	ClassTimeout      = "Timeout"      // the client was too slow
	ClassInternal     = "Internal"     // a fault of the server; its log has it under the request id
)

// Problem is an error with its place in HTTP. Cause stays in the server's log.
type Problem struct {
	Status int
	Class  string
	Detail string
	Header http.Header
	Cause  error
}

// New makes a Problem with a formatted detail.
func New(status int, class, format string, args ...any) *Problem {
	return &Problem{Status: status, Class: class, Detail: fmt.Sprintf(format, args...)}
}

// NotFound is the answer for what does not exist and for what belongs to
// another tenant: the two must not be told apart.
func NotFound(kind, id string) *Problem {
	return New(http.StatusNotFound, ClassNotFound, "no %s %s", kind, id)
}

// Internal hides err from the client and keeps it for the log.
func Internal(err error) *Problem {
	return &Problem{Status: http.StatusInternalServerError, Class: ClassInternal,
		Detail: "the server failed; its operator finds the reason in the log under this request id", Cause: err}
}

// With adds a response header.
func (p *Problem) With(key, value string) *Problem {
	if p.Header == nil {
		p.Header = http.Header{}
	}
	p.Header.Set(key, value)
	return p
}

// Because keeps the error behind the problem for the log.
func (p *Problem) Because(err error) *Problem {
	p.Cause = err
	return p
}

// Error is the text for people.
func (p *Problem) Error() string { return p.Detail }

// Unwrap gives the cause.
func (p *Problem) Unwrap() error { return p.Cause }

// Of returns the Problem in err's chain, or an internal one around err.
func Of(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return Internal(err)
}
