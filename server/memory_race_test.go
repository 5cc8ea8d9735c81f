//go:build race

package server_test

// idleMemory of 200 channels, KiB, with room for what the race detector adds to a server.
const idleMemory = 512 << 10
