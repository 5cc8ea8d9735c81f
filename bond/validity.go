package bond

import (
	"fmt"
	"time"
)

// MaxValidity is the longest time between NotBefore and NotAfter of a ticket; the
// hypervisor has to remember nonces for as long.
const MaxValidity = 24 * time.Hour

// maxUnix keeps times within year 9999, so that sums do not overflow and texts
// stay readable.
const maxUnix = 253402300799

// ValidityError says that a message is not valid at the time of the host's clock,
// and by how much. All times are Unix seconds.
type ValidityError struct {
	What      string
	Now       int64
	NotBefore int64
	NotAfter  int64
}

// Off returns how far the clock is outside of the validity: positive when it is
// past the end, negative when it is before the start.
func (e *ValidityError) Off() time.Duration {
	if e.Now < e.NotBefore {
		return time.Duration(e.Now-e.NotBefore) * time.Second
	}
	return time.Duration(e.Now-e.NotAfter) * time.Second
}

func (e *ValidityError) Error() string {
	text := "expired %s ago"
	off := e.Off()
	if off < 0 {
		text, off = "is valid only in %s", -off
	}
	return fmt.Sprintf("bond: %s "+text+" (clock here: %s, valid %s to %s); make a new one, or set the clocks right",
		e.What, off, utc(e.Now), utc(e.NotBefore), utc(e.NotAfter))
}

func utc(sec int64) string { return time.Unix(sec, 0).UTC().Format(time.RFC3339) }

func checkValidity(what string, now, notBefore, notAfter int64) error {
	if now < notBefore || now > notAfter {
		return &ValidityError{What: what, Now: now, NotBefore: notBefore, NotAfter: notAfter}
	}
	return nil
}

// CheckValidity tells whether the ticket is valid at now (Unix seconds, both ends
// included). Errors are *ValidityError.
func (t *BootTicket) CheckValidity(now int64) error {
	return checkValidity("boot ticket", now, t.NotBefore, t.NotAfter)
}

// CheckValidity tells whether the ticket is valid at now (Unix seconds, both ends
// included). Errors are *ValidityError.
func (t *Ticket) CheckValidity(now int64) error {
	return checkValidity("ticket", now, t.NotBefore, t.NotAfter)
}

func validTime(what string, t int64) error {
	if t < 0 || t > maxUnix {
		return invalid(what, "%d is not a time in Unix seconds", t)
	}
	return nil
}

// validWindow checks the validity of a ticket as it was written.
func validWindow(what string, notBefore, notAfter int64) error {
	if err := validTime(what+": not-before", notBefore); err != nil {
		return err
	}
	if err := validTime(what+": not-after", notAfter); err != nil {
		return err
	}
	if notAfter <= notBefore || notAfter-notBefore > int64(MaxValidity/time.Second) {
		return invalid(what+": not-after", "must be after not-before, by %s at most", MaxValidity)
	}
	return nil
}
