// Package automaton is the language in which the owner of a VM says which
// hypercalls a management command may issue, in which order and with which
// arguments, and the machine that holds a running command to it.
//
//	automaton pause =
//	    query-status* stop query-status*
//	    on abort query-status*
//	    deadline 30s ;
//
// docs/automata.md is the reference. The way of a text is
//
//	Parse (lex.go, parse*.go, parts.go) -> File (ast.go; format.go, print.go: canonical text, hash)
//	  -> Compile (machine.go) -> nfa.go
//	       -> without captures: alphabet.go, classes*.go -> subset.go -> minimize.go -> dfa.go
//	       -> with captures: reduce.go
//	  -> Machine -> Start -> Run (run.go; follow.go or all ways at once; match.go: predicates)
//
// Beside it stand Format, which keeps comments (source.go); Includes, Equal,
// Intersect and Shared (product.go, compare.go, intersect.go, check.go), and what
// they do about captures (loose.go, search.go); ReadRecording and Trace
// (recording.go, trace.go); DOT and SVG (graph.go, layout.go, draw*.go). Package
// learn, below, infers automata from recordings.
//
// The package is pure: no I/O, no clock. Texts come from tenants and arguments
// from the management domain, so both are hostile here: sizes, nesting, states
// and the work of one step are bounded by the constants in limits.go, and what
// passes a bound is refused, never cut short.
package automaton
