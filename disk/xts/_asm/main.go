// This program writes xts_amd64.s:
//
//	cd disk/xts/_asm && go run . -out ../xts_amd64.s
//
// docs/xts.md explains the design; register plans stand with the functions.
// No instruction here branches on, or computes an address from, a key, a tweak
// or data: the only conditions are counts of rounds, groups, blocks and sectors.
package main

import (
	"bytes"
	"flag"
	"log"
	"os"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64,!purego")
	extendedFeatures()
	expandKeys()
	for _, encrypt := range []bool{true, false} {
		sectorsAESNI(encrypt)
		sectorsVAES256(encrypt)
		sectorsVAES512(encrypt)
	}
	Generate()

	// avo names one file; the generator has several.
	out := flag.Lookup("out").Value.String()
	text, err := os.ReadFile(out)
	if err == nil {
		err = os.WriteFile(out, bytes.Replace(text, []byte("go run main.go"), []byte("go run ."), 1), 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Widths in bytes, and the most sectors of a call.
const (
	block = 16
	batch = 64
	// firstTweaks is for the first tweaks of a batch and two that are read ahead.
	firstTweaks = (batch+2)*block + 32
)

func at(base Register, offset int) Mem { return Mem{Base: base, Disp: offset} }

// aligned sets r to the address, a multiple of to, of n bytes of the stack frame.
func aligned(n, to int, r Register) {
	LEAQ(AllocLocal(n+to), r)
	ADDQ(I32(int32(to-1)), r)
	ANDQ(I32(int32(-to)), r)
}

func static(mustBeZero int) {
	if mustBeZero != 0 {
		panic("the stack frame changed")
	}
}

// sectors declares a function on whole sectors. Its stack, from R9, has locals
// bytes (a multiple of 64), then the first tweaks, which the function tweaks
// computes for RCX sectors from the number in R8 in steps of R10, at RDI and RDX.
func sectors(name, groups string, locals int, tweaks func()) {
	TEXT(name, 0, "func(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)")
	Doc(name+" works on up to 64 sectors of as many groups of "+groups+" blocks.",
		"data and tweak are round keys.")
	aligned(locals+firstTweaks, 128, R9)
	Load(Param("tweak"), RAX)
	Load(Param("rounds"), RBX)
	Load(Param("sectors"), RCX)
	Load(Param("first"), R8)
	Load(Param("step"), R10)
	LEAQ(at(R9, locals), RDX)
	MOVQ(RDX, RDI)
	tweaks()
	Load(Param("data"), RAX)
	Load(Param("dst"), RDI)
	Load(Param("src"), RSI)
	Load(Param("sectors"), RCX)
	Load(Param("groups"), R8)
}

func direction(encrypt bool, e, d string) string {
	if encrypt {
		return e
	}
	return d
}

// nextFirst sets R10:R11 (lower, upper half) to the first tweak of the group
// that follows: that of the next sector at DX, or, where R12 says that the
// sector goes on, the last one times x to the power of bits.
func nextFirst(label string, bits int) {
	DECQ(R12)
	JNZ(LabelRef(label + "_same"))
	MOVQ(at(RDX, 0), R10)
	MOVQ(at(RDX, 8), R11)
	ADDQ(Imm(block), RDX)
	MOVQ(R8, R12)
	JMP(LabelRef(label + "_done"))
	Label(label + "_same")
	timesX(bits)
	Label(label + "_done")
}

// storeFirst stores R10:R11, then its halves swapped.
func storeFirst(base Register, offset int) {
	MOVQ(R10, at(base, offset))
	MOVQ(R11, at(base, offset+8))
	MOVQ(R11, at(base, offset+16))
	MOVQ(R10, at(base, offset+24))
}

// timesX multiplies R10:R11 by x to the power of bits, at most 56. What falls
// out at the top comes back as its product with x^7+x^2+x+1.
func timesX(bits int) {
	MOVQ(R11, RCX)
	SHRQ(Imm(uint64(64-bits)), RCX)
	SHLQ(Imm(uint64(bits)), R10, R11)
	SHLQ(Imm(uint64(bits)), R10)
	XORQ(RCX, R10)
	for _, n := range []uint64{1, 1, 5} {
		SHLQ(Imm(n), RCX)
		XORQ(RCX, R10)
	}
}

func clearGP() {
	XORL(ECX, ECX)
	XORL(R10L, R10L)
	XORL(R11L, R11L)
}

// extendedFeatures asks for what golang.org/x/sys/cpu reports only together
// with AVX-512.
func extendedFeatures() {
	TEXT("extendedFeatures", NOSPLIT, "func() uint32")
	Doc("extendedFeatures returns ECX of CPUID leaf 7, which must exist.")
	MOVL(U32(7), EAX)
	XORL(ECX, ECX)
	CPUID()
	Store(ECX, ReturnIndex(0))
	RET()
}
