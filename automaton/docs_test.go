package automaton

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The reference's own examples must be right.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "automata.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```([a-z]*)\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	checked := 0
	for _, block := range blocks {
		text := block[2]
		switch {
		case block[1] != "":
			continue
		case strings.Contains(text, "automaton "):
		case strings.Contains(text, "balloon{"):
			text = "automaton t = " + text + ";"
		default:
			continue
		}
		parse(t, text)
		checked++
	}
	_, err = Parse("pause.uva", []byte("# Stops.\nautomaton pause =\n    query-status* { x: 1 } stop ;"))
	if err == nil || !strings.Contains(string(data), err.Error()) {
		t.Errorf("the example of an error is not what is printed:\n%v", err)
	}
	if checked < 2 {
		t.Fatalf("only %d examples found", checked)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| ([a-z]+) \\| `([^`]+)`").FindAllStringSubmatch(string(data), -1) {
		parse(t, "automaton "+row[1]+" = "+row[2]+";")
	}
}
