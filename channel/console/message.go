package console

import "fmt"

// Message is one of the types below.
type Message interface {
	kind() byte
	// payload appends the payload to b. Values out of range are a fault of the
	// caller, and panic.
	payload(b []byte) []byte
}

// Kinds of message.
const (
	kindAttach = 1 + iota
	kindInput
	kindResize
	kindMode
	kindWho
	kindAck
)

const (
	kindAttached = 65 + iota
	kindOutput
	kindLost
	kindTaken
	kindViewers
	kindEnd
)

// Mode is what a viewer may do, or asks to be allowed.
type Mode byte

// Modes. There is one writer at a time.
const (
	Read  Mode = iota // look on
	Write             // write as soon as nobody else does
	Take              // write now; who did before looks on and waits. Only asked for, never shown
	// Waiting is shown of a viewer that asked to write while another does. It is not asked for.
	Waiting
)

// String names a mode for people.
func (m Mode) String() string {
	switch m {
	case Read:
		return "reading"
	case Write:
		return "writing"
	case Take:
		return "taking"
	case Waiting:
		return "waiting to write"
	default:
		return fmt.Sprintf("mode %d", byte(m))
	}
}

// From says what the number of a Start means.
type From byte

// Where output starts.
const (
	FromOffset From = iota // at byte N since the instance started
	FromLast               // with the last N bytes; ^uint64(0) is all that is kept
)

// Start is where a viewer's output begins.
type Start struct {
	From From
	N    uint64
}

// All starts with everything that is kept.
func All() Start { return Start{FromLast, ^uint64(0)} }

// Last starts with the last n bytes that are kept; 0 is none.
func Last(n uint64) Start { return Start{FromLast, n} }

// At starts with byte n since the instance started.
func At(n uint64) Start { return Start{FromOffset, n} }

// Size is that of a viewer's terminal, in characters; 0 is not known.
type Size struct{ Columns, Rows uint16 }

// Attach is the client's first message.
type Attach struct {
	Session [SessionSize]byte
	Mode    Mode // Read, Write or Take
	Start   Start
	Size    Size
	Name    string // shown to the other viewers: see CleanName
}

// Input is typed into the VM's serial port. Offset counts bytes of the session before
// Data, which is valid until the next message is read.
type Input struct {
	Offset uint64
	Data   []byte
}

// Resize tells a terminal's new size.
type Resize struct{ Size Size }

// SetMode asks to read, write or take.
type SetMode struct{ Mode Mode }

// Who asks for the list of viewers.
type Who struct{}

// Ack says how many bytes of output the client has dealt with since it attached.
type Ack struct{ Bytes uint64 }

// Attached answers Attach.
type Attached struct {
	// Resumed: the session is known, and Input of its bytes have been seen. Otherwise
	// Input is 0, and what an earlier connection sent may have been typed or not.
	Resumed bool
	ID      uint32 // which of the viewers the client is
	Offset  uint64 // of the first byte of output to come, or of a lost before it
	End     uint64 // how many bytes the VM has printed so far
	Input   uint64
}

// Output is what the VM printed. Data is valid until the next message is read.
type Output struct {
	Offset uint64
	Data   []byte
}

// Lost says that so many bytes from Offset on are not kept any more.
type Lost struct {
	Offset uint64
	Bytes  uint64
}

// Taken says how much of the session's input has been dealt with. Refused of it was
// not typed: the viewer did not write at that time, or too much was waiting.
type Taken struct {
	Input   uint64
	Refused uint64
}

// Viewer is somebody attached.
type Viewer struct {
	ID    uint32
	Since int64 // Unix milliseconds
	Size  Size
	Mode  Mode // Read, Write or Waiting
	Name  string
}

// Viewers is the list of who is attached, in the order in which they came.
type Viewers struct{ Viewers []Viewer }

// Why says how a console ended.
type Why byte

// Reasons of an end.
const (
	InstanceEnded   Why = iota // the VM's instance has ended in order; the text says how
	InstanceCrashed            // QEMU ended by itself
	HostRestarted              // the hypervisor's end of the channel is being replaced: attach again
	Replaced                   // the same session has attached again
	Crowded                    // MaxViewers are attached
	Misbehaved                 // the client broke the rules of this package
	OtherVersion               // of the messages
)

// String says it to people.
func (w Why) String() string {
	switch w {
	case InstanceEnded:
		return "the VM's instance has ended"
	case InstanceCrashed:
		return "the VM's instance has crashed"
	case HostRestarted:
		return "the hypervisor is restarting this part"
	case Replaced:
		return "this session is attached from elsewhere"
	case Crowded:
		return "too many viewers are attached"
	case Misbehaved:
		return "the client broke the rules of the console's messages"
	case OtherVersion:
		return "the hypervisor speaks another version of the console's messages"
	default:
		return fmt.Sprintf("reason %d", byte(w))
	}
}

// End is the hypervisor's last message.
type End struct {
	Why  Why
	Text string // may be empty
}

func (Attach) kind() byte   { return kindAttach }
func (Input) kind() byte    { return kindInput }
func (Resize) kind() byte   { return kindResize }
func (SetMode) kind() byte  { return kindMode }
func (Who) kind() byte      { return kindWho }
func (Ack) kind() byte      { return kindAck }
func (Attached) kind() byte { return kindAttached }
func (Output) kind() byte   { return kindOutput }
func (Lost) kind() byte     { return kindLost }
func (Taken) kind() byte    { return kindTaken }
func (Viewers) kind() byte  { return kindViewers }
func (End) kind() byte      { return kindEnd }
