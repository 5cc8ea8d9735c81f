//go:build race

package keeper

// maxData: the race detector's own memory has no bound that would mean anything.
const maxData = 0
