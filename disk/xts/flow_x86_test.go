package xts

import (
	"regexp"
	"slices"
	"strings"
)

var (
	general = regexp.MustCompile(`^([ABCD]X|[SD]I|R[0-9]+|[SB]P)$`)
	address = regexp.MustCompile(`\(([A-Z0-9]+)\)(?:\(([A-Z0-9]+)\*[0-9]\))?`)
	vectors = regexp.MustCompile(`^[XYZ][0-9]+$`)
	// The instructions on general registers, and whether they set the flags.
	scalar = map[string]bool{
		"MOVQ": false, "MOVL": false, "LEAQ": false, "XCHGQ": false, "CMOVQLT": false, "CPUID": false,
		"ADDQ": true, "SUBQ": true, "DECQ": true, "CMPQ": true, "XORQ": true, "XORL": true,
		"SHLQ": true, "SHRQ": true, "ANDQ": true, "IMULQ": true,
	}
	conditional = []string{"JEQ", "JNE", "JZ", "JNZ", "JL", "JLE", "JG", "JGE", "CMOVQLT"}
)

// stepX86 follows a line of assembly for amd64.
func (x *flow) stepX86(line string, jumps *int) string {
	op, args := instruction(line)
	if op == "" || op[0] == '$' || op == "DATA" || op == "GLOBL" {
		return ""
	}
	if strings.HasPrefix(op, "J") || op == "CMOVQLT" {
		*jumps++
		if !slices.Contains(conditional, op) {
			return "unknown conditional"
		}
		if x.flags {
			return "condition on a secret"
		}
		if op != "CMOVQLT" {
			return ""
		}
	}
	secret, wide := false, false
	loads := op == "MOVQ" || op == "MOVL" || op == "LEAQ" // do not read what they write
	for i, a := range args {
		for _, m := range address.FindAllStringSubmatch(a, -1) {
			if m[1] == "FP" || m[1] == "SB" {
				continue
			}
			if x.secret(m[1]) || m[2] != "" && x.secret(m[2]) {
				return "secret address"
			}
			secret = true
		}
		if op == "LEAQ" { // computes an address, loads nothing
			secret = false
		}
		wide = wide || vectors.MatchString(a)
		secret = secret || vectors.MatchString(a) || x.secret(a) && !(loads && i == len(args)-1)
	}
	sets, known := scalar[op]
	if !known {
		if !wide && op != "KMOVW" && op != "VZEROUPPER" && op != "VZEROALL" {
			return "unknown instruction"
		}
		// Vector instructions write vectors, masks or memory.
		if len(args) > 0 && general.MatchString(args[len(args)-1]) {
			x.set(args[len(args)-1], true)
		}
		return ""
	}
	if op == "CPUID" {
		return ""
	}
	if sets {
		x.flags = secret
	}
	zeroing := strings.HasPrefix(op, "XOR") && args[0] == args[1]
	last := args[len(args)-1]
	if op != "CMPQ" {
		x.set(last, secret && !zeroing)
	}
	if op == "XCHGQ" {
		x.set(args[0], secret)
	}
	return ""
}
