package xts

import (
	"regexp"
	"slices"
	"strings"
)

var (
	armGeneral = regexp.MustCompile(`^R[0-9]+`) // also R9<<1
	armBase    = regexp.MustCompile(`^[0-9]*\((R[0-9]+)\)$`)
	armStatic  = regexp.MustCompile(`^[a-z]+\+[0-9]+\(FP\)$|^\$[a-z]+-[0-9]+\(SP\)$`)
	// The instructions on general registers, and whether they set the flags.
	armScalar = map[string]bool{
		"MOVD": false, "ADD": false, "SUB": false, "AND": false, "EOR": false, "ASR": false, "EXTR": false, "LDP.P": false,
		"ADDS": true, "SUBS": true, "CMP": true,
	}
	armConditional = []string{"BEQ", "BNE", "BLT", "BGE"}
	armVector      = regexp.MustCompile(`^(V[A-Z0-9]+(\.P)?|FMOVD|AES(E|D|MC|IMC))$`)
)

// stepARM follows a line of assembly for arm64.
func (x *flow) stepARM(line string, jumps *int) string {
	op, args := instruction(line)
	if op == "" {
		return ""
	}
	if slices.Contains(armConditional, op) {
		*jumps++
		if x.flags {
			return "condition on a secret"
		}
		return ""
	}
	sets, scalar := armScalar[op]
	if !scalar && !armVector.MatchString(op) {
		return "unknown instruction"
	}
	// Vector registers are secret, so is what comes out of them or of memory.
	secret := !scalar || op == "LDP.P"
	last := len(args) - 1
	for i, a := range args {
		if m := armBase.FindStringSubmatch(a); m != nil {
			if x.secret(m[1]) {
				return "secret address"
			}
			secret = true
		}
		if armStatic.MatchString(a) { // an argument, or the address of a local
			continue
		}
		secret = secret || strings.HasSuffix(a, "(SP)")
		if r := armGeneral.FindString(a); r != "" && (i < last || op == "CMP") {
			secret = secret || x.secret(r)
		}
	}
	if sets {
		x.flags = secret
	}
	if op == "CMP" {
		return ""
	}
	for i, a := range args {
		a = strings.Trim(a, "()")
		written := i == last || op == "LDP.P" && i > 0
		if written && armGeneral.FindString(a) == a && armBase.FindString(args[i]) == "" {
			x.set(a, secret)
		}
	}
	return ""
}
