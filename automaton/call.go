package automaton

import "encoding/json"

// Call is one hypercall of a trace, written as QMP writes it.
type Call struct {
	Command   string         `json:"execute"`
	Arguments map[string]any `json:"arguments,omitempty"`

	Failed bool `json:"-"` // recorded with an error as its answer
	Elided int  `json:"-"` // not 0: stands for so many calls that a recording left out
}

// String writes the command and its arguments as JSON, shortened.
func (c Call) String() string {
	if len(c.Arguments) == 0 {
		return clip(c.Command)
	}
	data, err := json.Marshal(c.Arguments)
	if err != nil {
		return clip(c.Command) + " {arguments that are not JSON}"
	}
	return clip(c.Command) + " " + clip(string(data))
}
