package console

import (
	"encoding/binary"
	"fmt"
)

var be = binary.BigEndian

// Append appends the frame of a message to b. A message that this package would not
// read is a fault of the caller, and panics.
func Append(b []byte, m Message) []byte {
	at := len(b)
	b = append(b, m.kind(), 0, 0)
	b = m.payload(b)
	n := len(b) - at - headerSize
	if n > maxPayload {
		panic(fmt.Sprintf("console: %T of %d bytes", m, n))
	}
	be.PutUint16(b[at+1:], uint16(n))
	return b
}

func (m Attach) payload(b []byte) []byte {
	b = append(b, Version)
	b = append(b, m.Session[:]...)
	b = append(b, byte(m.Mode), byte(m.Start.From))
	b = be.AppendUint64(b, m.Start.N)
	return text(m.Size.append(b), m.Name, MaxName)
}

func (m Input) payload(b []byte) []byte {
	if len(m.Data) == 0 || len(m.Data) > MaxInput {
		panic(fmt.Sprintf("console: input of %d bytes", len(m.Data)))
	}
	return append(be.AppendUint64(b, m.Offset), m.Data...)
}

func (m Resize) payload(b []byte) []byte  { return m.Size.append(b) }
func (m SetMode) payload(b []byte) []byte { return append(b, byte(m.Mode)) }
func (Who) payload(b []byte) []byte       { return b }
func (m Ack) payload(b []byte) []byte     { return be.AppendUint64(b, m.Bytes) }

func (m Attached) payload(b []byte) []byte {
	flags := byte(0)
	if m.Resumed {
		flags = flagResumed
	}
	b = be.AppendUint32(append(b, Version, flags), m.ID)
	b = be.AppendUint64(b, m.Offset)
	b = be.AppendUint64(b, m.End)
	return be.AppendUint64(b, m.Input)
}

func (m Output) payload(b []byte) []byte {
	if len(m.Data) == 0 || len(m.Data) > MaxOutput {
		panic(fmt.Sprintf("console: output of %d bytes", len(m.Data)))
	}
	return append(be.AppendUint64(b, m.Offset), m.Data...)
}

func (m Lost) payload(b []byte) []byte {
	return be.AppendUint64(be.AppendUint64(b, m.Offset), m.Bytes)
}

func (m Taken) payload(b []byte) []byte {
	return be.AppendUint64(be.AppendUint64(b, m.Input), m.Refused)
}

func (m Viewers) payload(b []byte) []byte {
	if len(m.Viewers) > MaxViewers {
		panic(fmt.Sprintf("console: %d viewers", len(m.Viewers)))
	}
	b = append(b, byte(len(m.Viewers)))
	for _, v := range m.Viewers {
		b = be.AppendUint32(b, v.ID)
		b = be.AppendUint64(b, uint64(v.Since))
		b = text(append(v.Size.append(b), byte(v.Mode)), v.Name, MaxName)
	}
	return b
}

func (m End) payload(b []byte) []byte { return text(append(b, byte(m.Why)), m.Text, MaxText) }

func (s Size) append(b []byte) []byte {
	return be.AppendUint16(be.AppendUint16(b, s.Columns), s.Rows)
}

func text(b []byte, s string, most int) []byte {
	if !isClean(s, most) {
		panic(fmt.Sprintf("console: text %.300q is longer than %d bytes or has control characters", s, most))
	}
	return append(append(b, byte(len(s))), s...)
}
