package disk

import "io"

// Backend is the ciphertext of a disk. Methods are called concurrently. Errors
// should wrap the errno, which reaches the guest's side. A Backend may have more:
// OpenQueue (see QueueOpener); Direct() bool, if buffers must start on a page;
// Resized() (int64, error), if it can grow.
type Backend interface {
	io.ReaderAt
	io.WriterAt
	Sync() error                  // what was written before is on stable storage
	Size() int64                  // bytes; as it was when last asked for
	PunchHole(off, n int64) error // gives space back; what is read there later is not defined
	Close() error
}
