//go:build amd64 && !purego

package xts

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNoSecretDependence follows what the assembly loads from memory (round
// keys, tweaks, data; not its arguments) and what is computed from it, and
// fails when a conditional jump or move depends on it, or an address. Vector
// registers always count as secret.
func TestNoSecretDependence(t *testing.T) {
	text, err := os.ReadFile("xts_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	functions := strings.Split(string(text), "\nTEXT ")[1:]
	if len(functions) != 8 {
		t.Errorf("%d functions, want 8", len(functions))
	}
	jumps := 0
	for _, f := range functions {
		name, body, _ := strings.Cut(f, "(SB)")
		_, body, _ = strings.Cut(body, "\n")
		var x flow
		// Twice, so that what a loop makes secret is so at its start.
		for range 2 {
			jumps = 0
			for line := range strings.Lines(body) {
				if bad := x.step(line, &jumps); bad != "" {
					t.Errorf("%s: %s: %s", name, strings.TrimSpace(line), bad)
				}
			}
		}
		if jumps == 0 && name != "·extendedFeatures" {
			t.Errorf("%s: no jumps were found", name)
		}
	}
}

// flow is what is secret at a point of a function.
type flow struct {
	registers [16]bool // general registers
	flags     bool
}

var (
	general = []string{"AX", "BX", "CX", "DX", "SI", "DI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15", "SP", "BP"}
	address = regexp.MustCompile(`\(([A-Z0-9]+)\)(?:\(([A-Z0-9]+)\*[0-9]\))?`)
	vectors = regexp.MustCompile(`^[XYZ][0-9]+$`)
	// The instructions on general registers, and whether they set the flags.
	scalar = map[string]bool{
		"MOVQ": false, "MOVL": false, "LEAQ": false, "XCHGQ": false, "CMOVQLT": false, "CPUID": false,
		"ADDQ": true, "SUBQ": true, "DECQ": true, "CMPQ": true, "XORQ": true, "XORL": true,
		"SHLQ": true, "SHRQ": true, "ANDQ": true, "IMULQ": true,
	}
	conditional = []string{"JEQ", "JNE", "JZ", "JNZ", "JL", "JG", "JGE", "CMOVQLT"}
)

func (x *flow) step(line string, jumps *int) string {
	line, _, _ = strings.Cut(line, "//")
	fields := strings.Fields(strings.ReplaceAll(line, ",", " "))
	if len(fields) == 0 || strings.HasSuffix(fields[0], ":") || fields[0][0] == '$' || fields[0][0] == '#' ||
		slices.Contains([]string{"DATA", "GLOBL", "RET", "JMP"}, fields[0]) {
		return ""
	}
	op, args := fields[0], fields[1:]
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
		if len(args) > 0 && slices.Contains(general, args[len(args)-1]) {
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

func (x *flow) secret(name string) bool {
	i := slices.Index(general, name)
	return i >= 0 && x.registers[i]
}

func (x *flow) set(name string, secret bool) {
	if i := slices.Index(general, name); i >= 0 {
		x.registers[i] = secret
	}
}

// TestFlow: the check finds what it looks for.
func TestFlow(t *testing.T) {
	for code, want := range map[string]string{
		"MOVQ (DX), R10; CMPQ R10, $0x01; JEQ there":          "condition on a secret",
		"MOVQ (DX), R10; MOVQ R10, R11; MOVQ (AX)(R11*1), CX": "secret address",
		"MOVQ X0, R8; MOVOU (R8), X1":                         "secret address",
		"MOVQ X0, R8; ADDQ R8, R9; DECQ R9; JNZ there":        "condition on a secret",
		"VPEXTRQ $0x01, X0, R8; MOVOU (AX)(R8*1), X1":         "secret address",
		"MOVQ n+8(FP), CX; DECQ CX; JNZ there":                "",
		"MOVQ (DX), R10; XORL R10, R10; DECQ CX; JNZ there":   "",
		"MOVQ R9, R14; LEAQ 64(R9), R9; VMOVDQA (R14), Y1":    "",
	} {
		var x flow
		got, jumps := "", 0
		for line := range strings.SplitSeq(code, ";") {
			if got == "" {
				got = x.step(line, &jumps)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}
