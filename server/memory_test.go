//go:build !race

package server_test

// idleMemory is what 200 idle channels may take of the server, KiB.
const idleMemory = 64 << 10
