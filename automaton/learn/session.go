package learn

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/uvbond/uvbond/automaton"
)

// session is a recording made ready: the steps up to the first that failed, and
// what the toolstack sent after that.
type session struct {
	name    string
	from    Session
	index   int // among the sessions that are learned from
	order   string
	seconds float64
	steps   []*step
	after   []*step
	cut     bool  // the last of steps failed
	idle    bool  // sent nothing
	events  []int // RESET events, as places in steps

	fresh bool           // refreshes were taken out, from the step of index first on
	first int            // in steps
	last  map[string]int // string values: the last step that holds them
}

// step is one hypercall of a session.
type step struct {
	name   string
	args   map[string]any
	elided int
	key    string // name and arguments
	shape  string // name and keys of the arguments
	pos    int    // in its session
	leaves []leaf
}

// leaf is one scalar in a step's arguments.
type leaf struct{ path, value string }

// commandName is what the language can write as a hypercall.
var commandName = regexp.MustCompile(`^[A-Za-z_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

var reserved = []string{"automaton", "on", "deadline", "import", "part"}

func prepare(in Session) (*session, error) {
	if in.Recording == nil {
		return nil, errors.New("there is no recording")
	}
	s := &session{name: in.Name, from: in, seconds: in.Recording.Seconds, idle: len(in.Recording.Calls) == 0, last: map[string]int{}}
	var order strings.Builder
	for i, c := range in.Recording.Calls {
		if len(c.Command) > automaton.MaxName || !commandName.MatchString(c.Command) || slices.Contains(reserved, c.Command) {
			return nil, fmt.Errorf("hypercall %d: %.80q is no name of a command", i+1, c.Command)
		}
		st, err := newStep(c, i)
		if err != nil {
			return nil, fmt.Errorf("hypercall %d, %s: %w", i+1, c.Command, err)
		}
		for _, f := range st.leaves {
			if strings.HasPrefix(f.value, `"`) {
				s.last[f.value] = i
			}
		}
		order.WriteString(st.key + "\n")
		switch {
		case s.cut:
			s.after = append(s.after, st)
		default:
			s.steps = append(s.steps, st)
			s.cut = c.Failed
		}
	}
	s.order = order.String()
	for _, e := range in.Recording.Events {
		if e.Name == refreshEvent && e.At <= len(s.steps) {
			s.events = append(s.events, e.At)
		}
	}
	return s, nil
}

func newStep(c automaton.Call, pos int) (*step, error) {
	data, err := json.Marshal(c.Arguments)
	if err != nil {
		return nil, err
	}
	s := &step{name: c.Command, args: c.Arguments, elided: c.Elided, pos: pos, key: c.Command}
	keys := make([]string, 0, len(c.Arguments))
	for k := range c.Arguments {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	if len(keys) > 0 {
		s.key += " " + string(data)
	}
	s.shape = c.Command + " " + strings.Join(keys, "\x00")
	if err := s.leavesOf("", c.Arguments, 0); err != nil {
		return nil, err
	}
	sort.Slice(s.leaves, func(i, j int) bool { return s.leaves[i].path < s.leaves[j].path })
	return s, nil
}

// maxDepth is how deep arguments may be nested: less than what the language can write.
const maxDepth = automaton.MaxNesting - 8

func (s *step) leavesOf(path string, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("arguments are nested deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if err := s.leavesOf(path+"."+k, e, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range v {
			if err := s.leavesOf(fmt.Sprintf("%s[%d]", path, i), e, depth+1); err != nil {
				return err
			}
		}
	default:
		s.leaves = append(s.leaves, leaf{path, scalarText(v)})
	}
	return nil
}

// reads tells that a step only asks.
func (s *step) reads() bool { return onlyAsks(s.name) }

// refreshes finds what the toolstack asks after every RESET event, whatever else
// it is doing, and takes it out of the sessions: of all blocks of questions after
// such events the one that accounts for most.
func (l *learner) refreshes() {
	var best []*step
	most := 0
	for _, block := range l.blocks() {
		covered := 0
		for _, s := range l.sessions {
			covered += len(s.occurrences(block))
		}
		if covered > most {
			best, most = block, covered
		}
	}
	for _, s := range l.sessions {
		s.takeOut(best)
	}
	l.refresh = best
}

// maxBlocks is how many blocks of questions are tried.
const maxBlocks = 64

// blocks returns the blocks of questions after events, shortest first, none of
// them a repetition of another.
func (l *learner) blocks() [][]*step {
	var out [][]*step
	known := map[string]bool{}
	for length := 1; length <= maxPeriod/2; length++ {
		for _, s := range l.sessions {
			if len(s.events) == 0 {
				continue
			}
			for at := s.events[0]; at+length <= len(s.steps) && len(out) < maxBlocks; at++ {
				block := s.steps[at : at+length]
				if key := keysOf(block); !known[key] && !slices.ContainsFunc(block, func(st *step) bool { return !st.reads() }) && !repeats(block) {
					known[key] = true
					out = append(out, block)
				}
			}
		}
	}
	return out
}

func keysOf(block []*step) string {
	keys := make([]string, len(block))
	for i, s := range block {
		keys[i] = s.key
	}
	return strings.Join(keys, "\n")
}

// repeats tells that a block is a shorter one several times.
func repeats(block []*step) bool {
	for p := 1; p <= len(block)/2; p++ {
		if len(block)%p == 0 && keysOf(block[p:]) == keysOf(block[:len(block)-p]) {
			return true
		}
	}
	return false
}

// occurrences returns the places of the steps that are block: one round after
// each event, and then what stands there unbroken. Rounds do not overlap: one
// thread does the refreshes.
func (s *session) occurrences(block []*step) map[int]bool {
	gone := map[int]bool{}
	if len(block) == 0 || len(s.events) == 0 {
		return gone
	}
	from := 0
	for _, at := range s.events {
		from = max(from, at)
		var found []int
		for i := from; i < len(s.steps) && len(found) < len(block); i++ {
			if s.steps[i].key == block[len(found)].key {
				found = append(found, i)
			}
		}
		if len(found) < len(block) {
			break
		}
		for _, i := range found {
			gone[i] = true
		}
		from = found[len(found)-1] + 1
	}
	whole := keysOf(block)
	for i := s.events[0]; i+len(block) <= len(s.steps); i++ {
		if !gone[i] && !gone[i+len(block)-1] && keysOf(s.steps[i:i+len(block)]) == whole {
			for k := range block {
				gone[i+k] = true
			}
		}
	}
	return gone
}

// takeOut removes a block wherever it follows the events.
func (s *session) takeOut(block []*step) {
	gone := s.occurrences(block)
	if len(gone) == 0 {
		return
	}
	s.fresh, s.first = true, s.events[0]
	var rest []*step
	for i, st := range s.steps {
		if !gone[i] {
			rest = append(rest, st)
		}
	}
	s.steps = rest
	s.first = min(s.first, len(rest))
}
