package disk

// Op is what a Request asks for.
type Op uint8

// The operations of a Device.
const (
	Read Op = iota
	Write
	Flush       // what was completed before is on stable storage
	WriteZeroes // zeros, enciphered like everything else
	Trim        // the content is not needed any more; advice
	ops
)

func (o Op) String() string {
	return [...]string{"read", "write", "flush", "write-zeroes", "trim"}[o]
}

// Request is one operation on a Device. It belongs to the Queue from Start until
// Completed returns it; then it can be used again.
type Request struct {
	Op  Op
	FUA bool // of Write and WriteZeroes: on stable storage when it is completed
	// Shared says that others can change Data meanwhile (it is guest memory).
	// Then no ciphertext is ever put there, and each byte is read once. Without
	// it Data is work space: a Write leaves ciphertext in it.
	Shared bool
	Off    int64    // bytes from the start of the Device
	Len    int64    // bytes of WriteZeroes and Trim; Read and Write set it
	Data   [][]byte // plain text of Read and Write, in parts of any length
	Tag    uint64   // the owner's

	// N is how many bytes from the start were done: Len unless Err is not nil.
	// What a failed Read did not get is zeros.
	N   int64
	Err error

	span    span
	life    bool // holds Device.life
	locked  bool // holds span
	starved bool // is in Queue.starved
	at      place
	left    int   // pieces under way
	failed  int64 // lowest offset in the Request that a piece failed at
	started int64 // nanoseconds of a clock of its own
	next    *Request
}

// place is how far a Request was cut into pieces.
type place struct {
	off int64 // in the Request
	seg int   // in Data
	in  int   // in Data[seg]
}

// fifo is a queue of Requests. A Request is in one at most.
type fifo struct{ first, last *Request }

func (f *fifo) push(r *Request) {
	r.next = nil
	if f.last == nil {
		f.first = r
	} else {
		f.last.next = r
	}
	f.last = r
}

// pushFirst undoes pop.
func (f *fifo) pushFirst(r *Request) {
	if r.next = f.first; f.first == nil {
		f.last = r
	}
	f.first = r
}

func (f *fifo) pop() *Request {
	r := f.first
	if r != nil {
		if f.first = r.next; f.first == nil {
			f.last = nil
		}
		r.next = nil
	}
	return r
}

// forward moves p on by n bytes of data.
func (p *place) forward(data [][]byte, n int) {
	p.off += int64(n)
	for n > 0 {
		step := min(n, len(data[p.seg])-p.in)
		p.in += step
		n -= step
		if p.in == len(data[p.seg]) {
			p.seg++
			p.in = 0
		}
	}
}

// skipEmpty moves p to where there is data.
func (p *place) skipEmpty(data [][]byte) {
	for p.seg < len(data) && p.in == len(data[p.seg]) {
		p.seg++
		p.in = 0
	}
}
