package ui

import (
	"testing"
	"time"
)

// SetBodyTimeout changes for one test how long a request may take to come. It is called
// before the server starts.
func SetBodyTimeout(t *testing.T, d time.Duration) {
	was := bodyTimeout
	bodyTimeout = d
	t.Cleanup(func() { bodyTimeout = was })
}
