package disk

import (
	"context"
	"io"

	"github.com/uvbond/uvbond/disk/luks"
)

// EncryptOptions says what Encrypt makes.
type EncryptOptions struct {
	Format  luks.FormatOptions // DataSize is set by Encrypt
	Force   bool               // replace an existing file
	Workers int                // parallel workers; 0: one for each CPU
}

func Encrypt(ctx context.Context, src io.ReaderAt, size int64, dst string, opts EncryptOptions, progress func(done, total int64)) error {
	return errStub
}
