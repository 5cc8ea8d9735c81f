package automaton

import (
	"regexp"
	"time"
)

// File is a parsed text: automata with distinct names, in their order, and the
// parts that they are made of, each behind those that it uses.
type File struct {
	parts    []*definition
	automata []*definition
	captures *captures
}

// definition is an automaton or a part; a part has only name, body and size.
type definition struct {
	name     string
	body     *node
	abort    *node // nil: nothing may follow an abort
	deadline time.Duration
	size     int // of a part: its measure
}

// captures holds the names of a text's captures, sorted.
type captures struct {
	names []string
}

// Names returns the automata's names in the order of the text.
func (f *File) Names() []string {
	names := make([]string, len(f.automata))
	for i, d := range f.automata {
		names[i] = d.name
	}
	return names
}

func (f *File) find(name string) *definition {
	for _, d := range f.automata {
		if d.name == name {
			return d
		}
	}
	return nil
}

type nodeKind uint8

const (
	nodeEmpty   nodeKind = iota // ()
	nodeCommand                 // one hypercall
	nodeSeq                     // subs one after the other
	nodeAlt                     // one of subs
	nodeShuffle                 // subs interleaved
	nodeRepeat                  // subs[0] min to max times
	nodePart                    // the named part, whose body is subs[0]
)

const unbounded = -1

// node is an expression over hypercalls.
type node struct {
	kind     nodeKind
	command  *command
	subs     []*node
	min, max int // max may be unbounded
	part     *definition
}

// command is a hypercall with the predicate on its arguments.
type command struct {
	name     string
	args     *value // kind valueObject
	binds    bool   // args holds captures
	captures *captures
	at       origin
}

// origin is where a hypercall stands in its text.
type origin struct {
	text   *input // nil: nowhere
	offset int
}

// input is a text that was parsed: the one given, or an imported one.
type input struct{ name, text string }

type valueKind uint8

const (
	valueAny valueKind = iota
	valueNull
	valueTrue
	valueFalse
	valueText    // the string text
	valueRange   // an integer between low and high
	valueGlob    // a string like text
	valueRegexp  // a string that the whole of re matches
	valueType    // any value of the type that text names
	valueObject  // members, and more if open
	valueList    // items, then tail any number of times
	valueOneOf   // one of items
	valueCapture // text $capture suffix: a string, or without text and suffix any value
	valueAs      // items[0], and equal to or bound to capture
)

// value is a predicate on one JSON value.
type value struct {
	kind      valueKind
	text      string
	suffix    string
	low, high *bound // valueRange: nil is open
	unit      unitFamily
	re        *regexp.Regexp
	cost      int // of re, instructions
	members   []member
	open      bool
	items     []*value
	tail      *value // valueList: what may follow items
	tailMin   int    // 1: at least one
	capture   int    // index into captures.names
}

// member is one key of an object; members are sorted by key.
type member struct {
	key      string
	optional bool
	value    *value
}

// types are the words that valueType knows.
var types = []string{"string", "integer", "number", "boolean", "object", "list"}
