package automaton

import (
	"errors"
	"time"
)

type SyntaxError struct {
	Name      string
	Line, Col int
	Text      string // the source line
	Msg, Hint string
}

func (e *SyntaxError) Error() string { return e.Msg }

type File struct{}

func Parse(name string, text []byte) (*File, error)   { return nil, errors.New("not implemented") }
func (f *File) Names() []string                       { return nil }
func (f *File) String() string                        { return "" }
func (f *File) Hash() [32]byte                        { return [32]byte{} }
func (f *File) Compile(name string) (*Machine, error) { return nil, errors.New("not implemented") }
func (f *File) CompilePolicy() (*Machine, error)      { return nil, errors.New("not implemented") }

type Machine struct{}

func (m *Machine) Name() string            { return "" }
func (m *Machine) Deadline() time.Duration { return 0 }
func (m *Machine) States() int             { return 0 }
func (m *Machine) Start() *Run             { return nil }
func (m *Machine) Commands() []string      { return nil }

type Run struct{}

func (r *Run) Step(command string, args map[string]any) error { return nil }
func (r *Run) Done() bool                                     { return false }
func (r *Run) Abort()                                         {}
func (r *Run) Aborted() bool                                  { return false }
func (r *Run) Expected() []string                             { return nil }

type Refusal struct {
	Command  string
	Expected []string
	Reason   string
}

func (r *Refusal) Error() string { return r.Reason }
