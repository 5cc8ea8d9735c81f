// Package traces reads and writes the recorded sessions that the shipped automata
// are tested against: those of a toolstack's management commands, each several
// times, without what automata do not look at. Equal ones are there once. It is
// for tests and for the commands beside it.
package traces

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/uvbond/uvbond/automaton"
)

// Run is one recorded session of a command.
type Run struct {
	Command string            `json:"command"` // what was done, such as "attach-disk-raw"
	Runs    []int             `json:"runs"`    // which of its repetitions went like this, from 1
	Lines   []json.RawMessage `json:"lines"`   // as automaton.ReadRecording reads them

	Recording *automaton.Recording `json:"-"`
}

// maxLine is how long one run may be in a file.
const maxLine = 4 << 20

// Load reads a file of runs.
func Load(path string) ([]Run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []Run
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r Run
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s, run %d: %w", path, len(out)+1, err)
		}
		if r.Recording, err = automaton.ReadRecording(bytes.NewReader(bytes.Join(rawLines(r.Lines), []byte("\n")))); err != nil {
			return nil, fmt.Errorf("%s, run %d: %w", path, len(out)+1, err)
		}
		out = append(out, r)
	}
	return out, lines.Err()
}

func rawLines(lines []json.RawMessage) [][]byte {
	out := make([][]byte, len(lines))
	for i, l := range lines {
		out[i] = l
	}
	return out
}

// Write writes runs as Load reads them.
func Write(w io.Writer, runs []Run) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	for _, r := range runs {
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := z.Write(append(data, '\n')); err != nil {
			return err
		}
	}
	return z.Close()
}

// Compact makes the lines of a recording: hypercalls, which of them failed, and
// RESET events. Times, answers and other events are left out.
func Compact(rec *automaton.Recording) ([]json.RawMessage, error) {
	var out []json.RawMessage
	add := func(v any) error {
		data, err := json.Marshal(v)
		out = append(out, data)
		return err
	}
	type line struct {
		Dir    string         `json:"dir"`
		Elided bool           `json:"elided,omitempty"`
		Count  int            `json:"count,omitempty"`
		Msg    map[string]any `json:"msg"`
	}
	events := rec.Events
	for i := 0; i <= len(rec.Calls); i++ {
		for ; len(events) > 0 && events[0].At == i; events = events[1:] {
			if events[0].Name != "RESET" {
				continue
			}
			if err := add(line{Dir: "event", Msg: map[string]any{"event": events[0].Name}}); err != nil {
				return nil, err
			}
		}
		if i == len(rec.Calls) {
			break
		}
		c := rec.Calls[i]
		msg := map[string]any{"execute": c.Command}
		if len(c.Arguments) > 0 {
			msg["arguments"] = c.Arguments
		}
		if c.Failed {
			msg["id"] = i
		}
		if err := add(line{"out", c.Elided > 0, c.Elided, msg}); err != nil {
			return nil, err
		}
		if c.Failed {
			if err := add(line{Dir: "in", Msg: map[string]any{"error": map[string]any{}, "id": i}}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
