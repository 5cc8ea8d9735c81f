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
//	Parse (lex.go, parse*.go) -> File (ast.go, format.go: canonical text, hash)
//	  -> Compile (nfa.go) -> Machine -> Start -> Run (run.go, match.go: one Step a hypercall)
//
// The package is pure: no I/O, no clock. Texts come from tenants and arguments
// from the management domain, so both are hostile here: sizes, nesting, states
// and the work of one step are bounded by the constants in limits.go, and what
// passes a bound is refused, never cut short.
package automaton
