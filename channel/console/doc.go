// Package console is what the two ends of a console channel say to each other: the
// owner's client, which shows a VM's serial port and types into it, and the
// hypervisor, which keeps what the VM printed.  It is pure: it reads and writes a
// given stream, which is expected to be a channel (package channel) and so to be
// authenticated; all the same each end takes what it reads as hostile, since a client
// may be anybody's with a ticket, and a hypervisor's message may quote a guest.
//
// # Frames
//
// A message is one byte of kind, two bytes of length (big-endian), and so many
// bytes of payload. Numbers are big-endian. A payload that is longer or shorter
// than its kind says, a kind that the sender may not use, and a value out of
// range end the channel.
//
//	client to hypervisor
//	  1  attach   version u8, session 16, mode u8, start u8, start's number u64,
//	              columns u16, rows u16, name: length u8, UTF-8
//	  2  input    offset u64, 1 to 4096 bytes
//	  3  resize   columns u16, rows u16
//	  4  mode     mode u8
//	  5  who      (empty)
//	  6  ack      bytes u64
//	hypervisor to client
//	  65 attached version u8, flags u8, id u32, offset u64, end u64, input u64
//	  66 output   offset u64, 1 to 32768 bytes
//	  67 lost     offset u64, bytes u64
//	  68 taken    input u64, refused u64
//	  69 who      number u8, then each: id u32, since u64 (Unix, ms), columns u16,
//	              rows u16, mode u8, name: length u8, UTF-8
//	  70 end      why u8, text: length u8, UTF-8
//
// # Conversation
//
// The client sends attach first. The hypervisor answers attached, then what there
// is: output from where attached says, the list of who is attached at every change,
// end as its last message.
//
// Output is counted in bytes since the instance started, so that a client that
// attaches again says from where to go on and gets each byte once. A client that
// does not keep up loses the oldest: lost says how many, and stands where they were.
//
// Both directions have a window, so that a viewer whose terminal is stopped, or a
// guest that does not read its serial port, fills a bounded buffer and not the
// channel, which goes on carrying everything else: the hypervisor has at most
// OutputWindow bytes of output under way that no ack has counted, and the client at
// most InputWindow bytes of input that no taken has.
//
// Input is counted too, in bytes of the session: 16 random bytes that the client
// chooses once and repeats when it attaches again. The hypervisor answers how much of
// the session's input it has seen, so that the client goes on from there and nothing
// is typed twice. A session that attaches again also takes the place of its own dead
// connection, with its right to write.
package console

// Version is the version of the messages that this package speaks. A client with
// another one is told by end.
const Version = 1

// Limits.
const (
	MaxName   = 64       // bytes of a viewer's name
	MaxText   = 200      // bytes of the reason in an end
	MaxInput  = 4 << 10  // bytes in one input
	MaxOutput = 32 << 10 // bytes in one output

	MaxViewers = 16 // attached to one console at once

	OutputWindow = 256 << 10 // bytes of output that may be under way
	InputWindow  = 16 << 10  // bytes of input that may be under way

	SessionSize = 16 // bytes

	headerSize = 3
	maxPayload = 8 + MaxOutput
)
