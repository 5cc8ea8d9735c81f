package rfb

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"errors"
	"io"
)

// zlibStream reads rectangles of the Zlib encoding (6): each has a length and that many
// bytes, which go on one zlib stream for the whole connection. It keeps a picture of
// text, which is 4 MB raw, below 50 KB on a slow line.
type zlibStream struct {
	in bytes.Buffer // compressed bytes of this rectangle, and what deflate left of the last
	z  io.ReadCloser
}

// zlibSlack is what a rectangle may take compressed beyond its raw size, and what may
// be left over for the next: headers, and the marker of a flush.
const zlibSlack = 64 << 10

// begin takes the n compressed bytes of a rectangle of raw bytes.
func (s *zlibStream) begin(r *bufio.Reader, n uint32, raw int) error {
	if int64(n) > int64(raw)+int64(raw)/16+zlibSlack {
		return wrong("%d compressed bytes for %d", n, raw)
	}
	if s.in.Len() > zlibSlack {
		return wrong("%d compressed bytes belong to no rectangle", s.in.Len())
	}
	if _, err := io.CopyN(&s.in, r, int64(n)); err != nil {
		return err
	}
	if s.z == nil {
		z, err := zlib.NewReader(&s.in)
		if err != nil {
			return wrong("compressed pixels: %v", err)
		}
		s.z = z
	}
	return nil
}

// Read gives pixels.
func (s *zlibStream) Read(p []byte) (int, error) {
	n, err := s.z.Read(p)
	if err != nil && n == 0 {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("they end too early")
		}
		return 0, wrong("compressed pixels: %v", err)
	}
	return n, nil
}

// end drops a large buffer: the next rectangle may be small.
func (s *zlibStream) end() {
	if s.in.Cap() > 4<<20 {
		s.in = *bytes.NewBuffer(bytes.Clone(s.in.Bytes()))
	}
}
