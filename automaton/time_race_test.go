//go:build race

package automaton

import "time"

// nastyTime under the race detector, which is several times slower.
const nastyTime = 2 * time.Second

// nastyBytes leaves room for what the race detector adds.
const nastyBytes = 32 << 20
