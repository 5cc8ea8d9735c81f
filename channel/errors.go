package channel

import (
	"errors"
	"fmt"
)

// Why is the reason for which a channel ended, or never began.
type Why string

// The reasons. All but Ended and TimedOut mean that somebody between the ends did
// something to the stream.
const (
	Redirected Why = "redirected" // the handshake does not open: the other end holds another key, or means another channel
	Tampered   Why = "tampered"   // a record was changed or made up
	Reordered  Why = "reordered"  // a later record came first, or one is missing
	Replayed   Why = "replayed"   // a record came again
	Reflected  Why = "reflected"  // a record of this side came back
	Truncated  Why = "truncated"  // the stream ended without the other end saying so
	TimedOut   Why = "timed out"  // the other end sent nothing, or took nothing
	Malformed  Why = "malformed"  // the other end itself sent a record that makes no sense
	Ended      Why = "ended"      // the other end closed the channel, and said why
)

var explanations = map[Why]string{
	Redirected: "the channel was redirected or its handshake altered: the other end does not hold this VM's key for this channel",
	Tampered:   "the channel was tampered with: a record is not what the other end sent",
	Reordered:  "the channel was tampered with: records were reordered, or one is missing",
	Replayed:   "the channel was tampered with: a record was replayed",
	Reflected:  "the channel was tampered with: a record of this side was sent back",
	Truncated:  "the channel was truncated: the stream ended without the other end closing it",
	TimedOut:   "the channel timed out",
	Malformed:  "the channel's other end broke the protocol",
	Ended:      "the channel was closed by its other end",
}

// Error says why a channel ended. Nothing in it is secret.
type Error struct {
	Why    Why
	Reason string // Ended: what the other end said, printable ASCII; else detail, may be empty
	Err    error  // what the stream below said, may be nil
}

// Error explains the reason for people.
func (e *Error) Error() string {
	if found := explanations[Why(e.Reason)]; e.Why == Ended && found != "" {
		return found + "; its other end found that"
	}
	s := explanations[e.Why]
	if s == "" {
		s = "channel: " + string(e.Why)
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Err != nil {
		s = fmt.Sprintf("%s (%v)", s, e.Err)
	}
	return s
}

// Unwrap returns what the stream below said.
func (e *Error) Unwrap() error { return e.Err }

// WhyOf returns the reason in an error of this package, or "".
func WhyOf(err error) Why {
	var e *Error
	if errors.As(err, &e) {
		return e.Why
	}
	return ""
}

// Suspicious tells whether this side or, as it says under the seal, the other found
// that somebody between the ends touched the stream.
func (e *Error) Suspicious() bool {
	return e.Why.Suspicious() || e.Why == Ended && Why(e.Reason).Suspicious()
}

// Suspicious tells whether the reason means that somebody between the ends touched
// the stream. A truncated one may also be a broken connection.
func (w Why) Suspicious() bool {
	switch w {
	case Redirected, Tampered, Reordered, Replayed, Reflected:
		return true
	}
	return false
}
