// Package automata holds the automata that ship with UVBond, one text for each
// management command of each toolstack.
package automata

import "errors"

func Native(command string) (string, error)      { return "", errors.New("not implemented") }
func NativeNames() []string                      { return nil }
func Policy(names ...string) (string, error)     { return "", errors.New("not implemented") }
func Describe(policyText string) (string, error) { return "", errors.New("not implemented") }
