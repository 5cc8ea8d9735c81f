//go:build !race

package keeper

// maxData is how much memory of its own a keeper may have, bytes: guest memory, which it
// shares with QEMU, does not count. Under load it has some 10 MiB.
const maxData = 1 << 30
