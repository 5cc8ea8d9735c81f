package luks

import (
	"errors"
	"io"
)

var errStub = errors.New("luks: not built yet")

func ReadHeader(r io.ReaderAt, size int64) (*Header, error)        { return nil, errStub }
func (h *Header) Unlock(passphrase []byte) (key []byte, err error) { return nil, errStub }
func (h *Header) VerifyKey(key []byte) bool                        { return false }
func Format(w io.WriterAt, opts FormatOptions) (*Header, error)    { return nil, errStub }
