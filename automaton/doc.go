// Package automaton is the language of hypercall automata.
package automaton
