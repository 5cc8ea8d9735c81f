//go:build !race

package automaton

import "time"

// nastyTime is the processor time that any text may take. The promise is 50 ms;
// the rest is for the collector's share and for cores that others use too.
const nastyTime = 150 * time.Millisecond

// nastyBytes is what compiling any text may allocate, as promised.
const nastyBytes = 16 << 20
