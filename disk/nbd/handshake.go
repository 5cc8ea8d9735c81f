package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errAborted: the client ended the negotiation as the protocol has it.
var errAborted = errors.New("client ended the negotiation")

// option is one option of the client, its data not longer than maxOptionData.
type option struct {
	code uint32
	data []byte
}

// handshake negotiates until the client has chosen an export (c.export is set).
func (c *conn) handshake() error {
	var hello [18]byte
	binary.BigEndian.PutUint64(hello[0:], magicInit)
	binary.BigEndian.PutUint64(hello[8:], magicOption)
	binary.BigEndian.PutUint16(hello[16:], flagFixedNewstyle|flagNoZeroes)
	if err := c.send(hello[:]); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return quietEOF(err)
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&flagFixedNewstyle == 0 || flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x: need fixed newstyle and know no others", flags)
	}
	c.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		o, err := c.readOption()
		if err != nil {
			return err
		}
		if o == nil { // refused already
			continue
		}
		done, err := c.option(o)
		if err != nil {
			return err
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("more than %d options", maxOptions)
}

// readOption reads one option.  One that is too long is answered and nil
// returned; one that is absurdly long is an error.
func (c *conn) readOption() (*option, error) {
	var b [16]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return nil, quietEOF(err)
	}
	if binary.BigEndian.Uint64(b[:]) != magicOption {
		return nil, errors.New("option without its magic number")
	}
	code, n := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if n > maxOptionDrain || (n > maxOptionData && code == optExportName) {
		return nil, fmt.Errorf("option %d of %d bytes", code, n)
	}
	if n > maxOptionData {
		if _, err := c.br.Discard(int(n)); err != nil {
			return nil, err
		}
		return nil, c.reply(code, repErrTooBig, nil)
	}
	o := &option{code, make([]byte, n)}
	_, err := io.ReadFull(c.br, o.data)
	return o, err
}

// option answers one option; done means that transmission starts.
func (c *conn) option(o *option) (done bool, err error) {
	switch o.code {
	case optExportName:
		return true, c.exportName(string(o.data))
	case optAbort:
		_ = c.reply(o.code, repAck, nil) // the client may have gone already
		return false, errAborted
	case optList:
		return false, c.list(o)
	case optInfo, optGo:
		return c.info(o)
	case optStructuredReply:
		if len(o.data) != 0 {
			return false, c.reply(o.code, repErrInvalid, nil)
		}
		c.structured = true
		return false, c.reply(o.code, repAck, nil)
	default:
		return false, c.reply(o.code, repErrUnsup, nil)
	}
}

// exportName is the old way to choose an export; it has no error reply.
func (c *conn) exportName(name string) error {
	e := c.srv.find(name)
	if e == nil {
		return fmt.Errorf("no export named %q", shorten(name))
	}
	c.choose(e)
	b := binary.BigEndian.AppendUint64(nil, c.size)
	b = binary.BigEndian.AppendUint16(b, c.flags)
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	return c.send(b)
}

func (c *conn) list(o *option) error {
	if len(o.data) != 0 {
		return c.reply(o.code, repErrInvalid, nil)
	}
	for i := range c.srv.Exports {
		name := c.srv.Exports[i].Name
		b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := c.reply(o.code, repServer, append(b, name...)); err != nil {
			return err
		}
	}
	return c.reply(o.code, repAck, nil)
}

// info answers NBD_OPT_INFO and NBD_OPT_GO.
func (c *conn) info(o *option) (done bool, err error) {
	name, wanted, ok := parseInfo(o.data)
	if !ok {
		return false, c.reply(o.code, repErrInvalid, nil)
	}
	e := c.srv.find(name)
	if e == nil {
		return false, c.reply(o.code, repErrUnknown, nil)
	}
	size, flags := uint64(e.Device.Size()), e.transmissionFlags(c.structured)
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, size)
	b = binary.BigEndian.AppendUint16(b, flags)
	if err := c.reply(o.code, repInfo, b); err != nil {
		return false, err
	}
	b = binary.BigEndian.AppendUint16(b[:0], infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, minBlock)
	b = binary.BigEndian.AppendUint32(b, preferredBlock)
	b = binary.BigEndian.AppendUint32(b, MaxRequest)
	if err := c.reply(o.code, repInfo, b); err != nil {
		return false, err
	}
	if wanted&(1<<infoName) != 0 {
		b = binary.BigEndian.AppendUint16(b[:0], infoName)
		if err := c.reply(o.code, repInfo, append(b, e.Name...)); err != nil {
			return false, err
		}
	}
	if err := c.reply(o.code, repAck, nil); err != nil {
		return false, err
	}
	if o.code == optInfo {
		return false, nil
	}
	c.choose(e)
	return true, nil
}

// parseInfo takes the data of NBD_OPT_INFO apart; wanted is a bit set of the
// information types asked for, unknown ones left out as the protocol has it.
func parseInfo(b []byte) (name string, wanted uint32, ok bool) {
	if len(b) < 6 {
		return "", 0, false
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxName || int(n) > len(b)-6 {
		return "", 0, false
	}
	name, b = string(b[4:4+n]), b[4+n:]
	count := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) != 2*count {
		return "", 0, false
	}
	for ; len(b) > 0; b = b[2:] {
		if t := binary.BigEndian.Uint16(b); t < 32 {
			wanted |= 1 << t
		}
	}
	return name, wanted, true
}

func (c *conn) choose(e *Export) {
	c.export, c.size, c.flags = e, uint64(e.Device.Size()), e.transmissionFlags(c.structured)
}

// reply sends one option reply.
func (c *conn) reply(code, kind uint32, data []byte) error {
	b := make([]byte, 0, 20+len(data))
	b = binary.BigEndian.AppendUint64(b, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return c.send(append(b, data...))
}

func (c *conn) send(b []byte) error {
	_, err := c.nc.Write(b)
	return err
}

// quietEOF: a client that hangs up between messages did nothing wrong.
func quietEOF(err error) error {
	if err == io.EOF {
		return errAborted
	}
	return err
}

func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
