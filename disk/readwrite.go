package disk

import "io"

// waiting returns a Queue whose Start waits for the Backend; the caller gives it
// back.
func (d *Device) waiting() (*Queue, error) {
	d.idle.Lock()
	defer d.idle.Unlock()
	if n := len(d.idle.queues); n > 0 {
		q := d.idle.queues[n-1]
		d.idle.queues = d.idle.queues[:n-1]
		return q, nil
	}
	if d.idle.closed {
		return nil, ErrClosed
	}
	return d.newWaitingQueue()
}

// idleQueues is how many Queues are kept for callers of the methods that wait.
const idleQueues = 4

func (d *Device) giveBack(q *Queue) {
	d.idle.Lock()
	keep := !d.idle.closed && len(d.idle.queues) < idleQueues
	if keep {
		d.idle.queues = append(d.idle.queues, q)
	}
	d.idle.Unlock()
	if !keep {
		_ = q.Close()
	}
}

func (d *Device) closeIdle() {
	d.idle.Lock()
	queues := d.idle.queues
	d.idle.queues, d.idle.closed = nil, true
	d.idle.Unlock()
	for _, q := range queues {
		_ = q.Close()
	}
}

// wait carries r out.
func (d *Device) wait(r *Request) (int, error) {
	q, err := d.waiting()
	if err != nil {
		return 0, err
	}
	defer d.giveBack(q)
	q.do(r)
	return int(r.N), r.Err
}

// ReadAt is io.ReaderAt. What it could not read is zeros, beside an error that
// wraps the Backend's.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrRange
	}
	var atEnd error
	if rest := d.Size() - off; int64(len(p)) > rest {
		if rest <= 0 {
			return 0, io.EOF
		}
		p, atEnd = p[:rest], io.EOF
	}
	n, err := d.wait(&Request{Op: Read, Off: off, Data: [][]byte{p}})
	if err != nil {
		return n, err
	}
	return n, atEnd
}

// WriteAt is io.WriterAt. A write that would run over the end is refused as a
// whole. After an error the bytes beyond those counted are old or new, in
// pieces of 16 bytes or more. Those beside the range are untouched; only where
// the range starts or ends within a 16-byte block, and the Backend tears a write
// within that very block, is the rest of the block lost. Guests write whole
// multiples of 512 bytes.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	// Shared, because a writer's buffer must not be written to.
	return d.wait(&Request{Op: Write, Off: off, Data: [][]byte{p}, Shared: true})
}

// WriteZeroes writes n zeros at off, enciphered as everything else: storage
// cannot tell them from data, and nothing is given back to it.
func (d *Device) WriteZeroes(off, n int64) error {
	_, err := d.wait(&Request{Op: WriteZeroes, Off: off, Len: n})
	return err
}

// Trim says that n bytes at off are not needed any more. With Params.Discard
// the Backend may free their whole sectors, whose content is undefined from then
// on; else, or where the Backend cannot, nothing happens: it is advice.
func (d *Device) Trim(off, n int64) error {
	_, err := d.wait(&Request{Op: Trim, Off: off, Len: n})
	return err
}

// Flush returns when everything whose write had returned before is on stable
// storage.
func (d *Device) Flush() error {
	_, err := d.wait(&Request{Op: Flush})
	return err
}
