package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// marker stands between what people write and what is measured.
const marker = "<!-- Below this line the file is written by `make bench`. -->\n"

// write puts the reports of a run into its document. All suites replace what was
// measured before; some of them replace their own sections, which say so.
func write(o *options, reports []*report, took time.Duration) error {
	old, err := os.ReadFile(o.output)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(o.output, []byte(merge(string(old), o, reports, took)), 0o644)
}

func merge(old string, o *options, reports []*report, took time.Duration) string {
	head, measured, _ := strings.Cut(old, marker)
	flags := fmt.Sprintf("-rounds %d -seconds %g", o.rounds, o.seconds)
	how := func(command string) string {
		return fmt.Sprintf("on %s with `%s`, in %v: %s. Medians of %d rounds, lowest and highest in brackets.",
			time.Now().UTC().Format("2 January 2006"), command, took.Round(time.Second), machine(), o.rounds)
	}
	if o.only == "" {
		measured = "\nMeasured " + how("make bench BENCHFLAGS=\""+flags+"\"") + "\n\n"
		for _, r := range reports {
			measured += r.String() + "\n"
		}
		return head + marker + measured
	}
	sections := split(strings.TrimRight(measured, "\n") + "\n\n")
	for _, r := range reports {
		title, rest, _ := strings.Cut(r.String(), "\n")
		text := title + "\n\nMeasured by itself, " + how("bin/bench -run "+o.only+" "+flags) + "\n" + rest + "\n"
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, title+"\n") })
		if i < 0 {
			sections = append(sections, text)
		} else {
			sections[i] = text
		}
	}
	return head + marker + strings.TrimRight(strings.Join(sections, ""), "\n") + "\n"
}

// split cuts text before each heading.
func split(text string) []string {
	var parts []string
	for {
		i := strings.Index(text, "\n## ")
		if i < 0 {
			break
		}
		parts = append(parts, text[:i+1])
		text = text[i+1:]
	}
	return append(parts, text)
}
