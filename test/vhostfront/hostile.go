package vhostfront

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what an attack must lead to.
type Outcome uint8

// The outcomes. After each of them the back end serves the next front end, and
// unless the connection was closed also the queue beside the attacked one.
const (
	Closed   Outcome = iota // the connection ends
	Refused                 // the message is answered with failure, or the connection ends
	Accepted                // the message is answered with success
	Broken                  // the queue is given up, and can be started again
	Failed                  // the request fails; the queue goes on
	Unsupp                  // the request is not supported; the queue goes on
	Any                     // whatever, but for a wrong word to others
)

// Stage is how far a Front has come when an attack begins.
type Stage uint8

// The stages.
const (
	Fresh      Stage = iota // connected
	Negotiated              // features are agreed on
	Running                 // two queues are served
)

// Case is one attack. Do gets a Front at the Case's stage, whose queue 0 is the one
// to attack.
type Case struct {
	Name  string
	Stage Stage
	Want  Outcome
	Do    func(f *Front) error
}

// Hostile returns all attacks.
func Hostile() []Case {
	var all []Case
	for _, f := range []func() []Case{headerCases, featureCases, descriptorCases, memoryCases, vringCases, sharedCases, configCases,
		ringCases, chainCases, indirectCases, requestCases, racyCases} {
		all = append(all, f()...)
	}
	return all
}

// Run attacks the back end at path, and checks that nobody else suffers.
func (c Case) Run(path string) error {
	o := Options{Queues: 2, NoSeal: true, Memory: 1 << 20}
	f, err := New(o)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.prepare(f, path); err != nil {
		return fmt.Errorf("before the attack: %w", err)
	}
	if err := c.verdict(f, c.Do(f)); err != nil {
		return err
	}
	f.Disconnect()
	g, err := Dial(path, o)
	if err != nil {
		return fmt.Errorf("after the attack: %w", err)
	}
	defer g.Close()
	for _, q := range g.Queues {
		if err := g.Works(q); err != nil {
			return fmt.Errorf("after the attack: %w", err)
		}
	}
	return nil
}

func (c Case) prepare(f *Front, path string) (err error) {
	switch c.Stage {
	case Running:
		return f.Connect(path)
	default:
		if f.Conn, err = DialConn(path); err == nil && c.Stage == Negotiated {
			err = f.Negotiate()
		}
	}
	if err == nil {
		f.Conn.Timeout = answerTime
	}
	return err
}

// verdict compares what happened with what should.
func (c Case) verdict(f *Front, err error) error {
	q := f.Queues[0]
	switch c.Want {
	case Closed:
		return f.closed()
	case Refused:
		if err == nil {
			return errors.New("it was accepted")
		}
		if errors.Is(err, ErrRefused) {
			return f.others(c)
		}
		return f.closed()
	case Accepted:
		if err != nil {
			return err
		}
		return f.others(c)
	case Broken:
		if err != nil {
			return err
		}
		if !wait(func() bool { return q.Broken() }) {
			return errors.New("the queue was not given up")
		}
		if err := f.others(c); err != nil {
			return err
		}
		return f.Again(q)
	case Failed, Unsupp:
		if err != nil {
			return err
		}
		if err := q.await(0); err != nil {
			return err
		}
		if got, want := f.Mem[f.Area(q)+64], byte(c.Want-Failed+1); got != want {
			return fmt.Errorf("status %d, want %d", got, want)
		}
		if err := f.Works(q); err != nil {
			return fmt.Errorf("the same queue: %w", err)
		}
		return f.others(c)
	}
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Millisecond)
	return f.others(c)
}

func wait(f func() bool) bool {
	for end := time.Now().Add(answerTime); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		if f() {
			return true
		}
	}
	return false
}

// closed waits for the end of the connection.
func (f *Front) closed() error {
	for {
		_, _, fd, err := f.Conn.Recv()
		if fd >= 0 {
			unix.Close(fd)
		}
		if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the connection was not closed: %w", err)
		}
	}
}

// others checks the queue beside the attacked one.
func (f *Front) others(c Case) error {
	if c.Stage != Running {
		return nil
	}
	if err := f.Works(f.Queues[1]); err != nil {
		return fmt.Errorf("the queue beside: %w", err)
	}
	return nil
}

// Again stops an attacked queue, cleans it and starts it.
func (f *Front) Again(q *Queue) error {
	if _, err := f.Stop(q); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	// A guest that resets its device gets new memory for the requests under way.
	if f.inflight.fd >= 0 {
		if _, err := f.Stop(f.Queues[1]); err != nil {
			return err
		}
		unix.Close(f.inflight.fd)
		f.inflight.fd = -1
	}
	if err := unix.Ftruncate(f.MemFD, int64(len(f.Mem))); err != nil {
		return err
	}
	for _, q := range f.Queues {
		q.Clear()
	}
	if err := f.shareInflight(); err != nil {
		return fmt.Errorf("starting again: %w", err)
	}
	for _, q := range f.Queues {
		if err := f.Start(q); err != nil {
			return fmt.Errorf("starting again: %w", err)
		}
		if err := f.Works(q); err != nil {
			return fmt.Errorf("started again: %w", err)
		}
	}
	return nil
}
