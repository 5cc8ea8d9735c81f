// Package rules holds the rules of the repository as tests: who may import
// whom, what the trusted program is made of, formatting and package comments.
package rules
