package automaton

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEditorGrammars: the editors' grammars know every word of the language.
func TestEditorGrammars(t *testing.T) {
	words := append([]string{"automaton", "part", "import", "as", "on", "abort", "deadline", "any", "glob", "regexp", "true", "false", "null"}, types...)
	for _, u := range units {
		words = append(words, u.name)
	}
	reference, err := os.ReadFile(filepath.Join("..", "docs", "automata.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, ebnf, _ := strings.Cut(string(reference), "```ebnf\n")
	ebnf, _, _ = strings.Cut(ebnf, "```")
	for _, m := range regexp.MustCompile(`"([A-Za-z]+)"`).FindAllStringSubmatch(ebnf, -1) {
		words = append(words, m[1])
	}
	for _, name := range []string{"uva.vim", "uva.tmLanguage.json"} {
		text, err := os.ReadFile(filepath.Join("..", "docs", "editors", name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", name)
		}
		for _, word := range words {
			if !regexp.MustCompile(`\b` + word + `\b`).Match(text) {
				t.Errorf("%s does not know %q", name, word)
			}
		}
	}
}
