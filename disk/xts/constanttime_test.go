package xts

import (
	"os"
	"strings"
	"testing"
)

// assembly is what the package has for every CPU. Being text, it can be checked
// on any.
var assembly = []struct {
	file      string
	functions int
	step      func(x *flow, line string, jumps *int) string
}{
	{"xts_amd64.s", 8, (*flow).stepX86},
	{"xts_arm64.s", 3, (*flow).stepARM},
}

// TestNoSecretDependence follows what the assembly loads from memory (round
// keys, tweaks, data; not its arguments) and what is computed from it, and
// fails when a conditional jump or move depends on it, or an address. Vector
// registers always count as secret.
func TestNoSecretDependence(t *testing.T) {
	for _, a := range assembly {
		text, err := os.ReadFile(a.file)
		if err != nil {
			t.Fatal(err)
		}
		functions := strings.Split(string(text), "\nTEXT ")[1:]
		if len(functions) != a.functions {
			t.Errorf("%s: %d functions, want %d", a.file, len(functions), a.functions)
		}
		for _, f := range functions {
			name, body, _ := strings.Cut(f, "(SB)")
			_, body, _ = strings.Cut(body, "\n")
			var x flow
			jumps := 0
			// Twice, so that what a loop makes secret is so at its start.
			for range 2 {
				jumps = 0
				for line := range strings.Lines(body) {
					if bad := a.step(&x, line, &jumps); bad != "" {
						t.Errorf("%s: %s: %s: %s", a.file, name, strings.TrimSpace(line), bad)
					}
				}
			}
			if jumps == 0 && name != "·extendedFeatures" {
				t.Errorf("%s: %s: no jumps were found", a.file, name)
			}
		}
	}
}

// flow is what is secret at a point of a function.
type flow struct {
	registers map[string]bool // general registers
	flags     bool
}

func (x *flow) secret(name string) bool { return x.registers[name] }

func (x *flow) set(name string, secret bool) {
	if x.registers == nil {
		x.registers = map[string]bool{}
	}
	x.registers[name] = secret
}

// instruction takes a line apart. op is empty if there is nothing to follow.
func instruction(line string) (op string, args []string) {
	line, _, _ = strings.Cut(line, "//")
	fields := strings.Fields(strings.ReplaceAll(line, ",", " "))
	if len(fields) == 0 || strings.HasSuffix(fields[0], ":") || fields[0][0] == '#' || fields[0] == "RET" || fields[0] == "JMP" {
		return "", nil
	}
	return fields[0], fields[1:]
}

// TestFlow: the check finds what it looks for.
func TestFlow(t *testing.T) {
	const condition, address = "condition on a secret", "secret address"
	for _, c := range []struct {
		of         int // assembly
		code, want string
	}{
		{0, "MOVQ (DX), R10; CMPQ R10, $0x01; JEQ there", condition},
		{0, "MOVQ (DX), R10; MOVQ R10, R11; MOVQ (AX)(R11*1), CX", address},
		{0, "MOVQ X0, R8; MOVOU (R8), X1", address},
		{0, "MOVQ X0, R8; ADDQ R8, R9; DECQ R9; JNZ there", condition},
		{0, "VPEXTRQ $0x01, X0, R8; MOVOU (AX)(R8*1), X1", address},
		{0, "MOVQ n+8(FP), CX; DECQ CX; JNZ there", ""},
		{0, "MOVQ (DX), R10; XORL R10, R10; DECQ CX; JNZ there", ""},
		{0, "MOVQ R9, R14; LEAQ 64(R9), R9; VMOVDQA (R14), Y1", ""},
		{0, "MOVQ (DX), R10; BTQ R10, R11", "unknown instruction"},
		{1, "LDP.P 16(R2), (R9, R10); CMP $1, R10; BEQ there", condition},
		{1, "LDP.P 16(R2), (R9, R10); EOR R9<<1, R8, R11; SUBS $1, R11, R11; BNE there", condition},
		{1, "LDP.P 16(R2), (R9, R10); ADD R9, R1, R1; VLD1.P 64(R1), [V0.B16, V1.B16]", address},
		{1, "VMOV V0.D[0], R8; VLD1 (R8), [V0.B16]", address},
		{1, "FMOVD F0, R8; CMP $1, R8; BEQ there", condition},
		{1, "MOVD (R8), R9; SUBS $1, R9, R9; BNE there", condition},
		{1, "LDP.P 16(R2), (R9, R10); MOVD ZR, R9; SUBS $1, R9, R9; BNE there", ""},
		{1, "MOVD sectors+40(FP), R3; ADD $7, R3, R26; SUBS $8, R26, R26; BNE there", ""},
		{1, "MOVD $tweaks-1024(SP), R2; VST1.P [V0.B16, V1.B16], 64(R2)", ""},
		{1, "MOVD kept-8(SP), R2; SUBS $1, R2, R2; BNE there", condition},
		{1, "CSEL EQ, R1, R2, R3", "unknown instruction"},
		{1, "CBZ R1, there", "unknown instruction"},
	} {
		var x flow
		got, jumps := "", 0
		for line := range strings.SplitSeq(c.code, ";") {
			if got == "" {
				got = assembly[c.of].step(&x, line, &jumps)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.code, got, c.want)
		}
	}
}
