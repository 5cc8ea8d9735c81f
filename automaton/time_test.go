//go:build !race

package automaton

import "time"

// nastyTime is how long any text may take; the promise is 50 ms on an idle
// machine, tests share theirs with others.
const nastyTime = 150 * time.Millisecond
