package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

var xmm = []VecPhysical{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}

func clearXMM() {
	Comment("Leave no key, tweak or data in registers.")
	for _, x := range xmm {
		PXOR(x, x)
	}
}

// expandKeys computes the key schedule of FIPS 197, and that of its equivalent
// inverse cipher. The AES instructions look nothing up in memory.
func expandKeys() {
	TEXT("expandKeys", NOSPLIT, "func(key *byte, rounds int, enc, dec *byte)")
	Doc("expandKeys writes the round keys for AESENC to enc, for AESDEC to dec.",
		"key has 16 bytes for 10 rounds, 32 for 14.")
	Load(Param("key"), RAX)
	Load(Param("rounds"), RBX)
	Load(Param("enc"), RDI)
	Load(Param("dec"), RSI)
	MOVOU(at(RAX, 0), X0)
	MOVOU(X0, at(RDI, 0))
	CMPQ(RBX, Imm(14))
	JEQ(LabelRef("long"))

	Comment("AES-128: each round key from the one before.")
	rcon := 1
	for i := 1; i <= 10; i++ {
		AESKEYGENASSIST(Imm(uint64(rcon)), X0, X2)
		nextRoundKey(X0, 0xff)
		MOVOU(X0, at(RDI, block*i))
		rcon <<= 1
		if rcon > 0xff {
			rcon ^= 0x11b
		}
	}
	JMP(LabelRef("inverse"))

	Label("long")
	Comment("AES-256: each from the two before; every other without rotation and constant.")
	MOVOU(at(RAX, block), X1)
	MOVOU(X1, at(RDI, block))
	rcon = 1
	for i := 2; i <= 14; i += 2 {
		AESKEYGENASSIST(Imm(uint64(rcon)), X1, X2)
		nextRoundKey(X0, 0xff)
		MOVOU(X0, at(RDI, block*i))
		rcon <<= 1
		if i == 14 {
			break
		}
		AESKEYGENASSIST(Imm(0), X0, X2)
		nextRoundKey(X1, 0xaa)
		MOVOU(X1, at(RDI, block*(i+1)))
	}

	Label("inverse")
	Comment("The other way round, all but the ends through InvMixColumns.")
	MOVQ(RBX, RCX)
	SHLQ(Imm(4), RCX)
	ADDQ(RDI, RCX)
	MOVOU(at(RCX, 0), X0)
	MOVOU(X0, at(RSI, 0))
	DECQ(RBX)
	Label("mix")
	SUBQ(Imm(block), RCX)
	ADDQ(Imm(block), RSI)
	MOVOU(at(RCX, 0), X0)
	AESIMC(X0, X0)
	MOVOU(X0, at(RSI, 0))
	DECQ(RBX)
	JNZ(LabelRef("mix"))
	MOVOU(at(RDI, 0), X0)
	MOVOU(X0, at(RSI, block))
	clearXMM()
	RET()
}

// nextRoundKey makes k, four words, the next round key: each word is added to
// all after it, and the word of X2 that order selects to all.
func nextRoundKey(k VecPhysical, order uint8) {
	PSHUFD(Imm(uint64(order)), X2, X2)
	for range 3 {
		MOVO(k, X3)
		PSLLDQ(Imm(4), X3)
		PXOR(X3, k)
	}
	PXOR(X2, k)
}

// tweaksAESNI enciphers sector numbers, eight at a time. X0-X7 are blocks, X8
// the round key.
func tweaksAESNI() {
	Label("numbers")
	for j := range 8 {
		MOVQ(R8, xmm[j])
		ADDQ(R10, R8)
	}
	MOVOU(at(RAX, 0), X8)
	for j := range 8 {
		PXOR(X8, xmm[j])
	}
	roundsAESNI(true, "numbers", nil)
	for j := range 8 {
		MOVO(xmm[j], at(RDI, block*j))
	}
	ADDQ(I32(8*block), RDI)
	SUBQ(Imm(8), RCX)
	JG(LabelRef("numbers"))
}

// roundsAESNI does all rounds after the first addition on X0-X7 with the keys
// at AX; X8 is the round key. between(j), for j from 0 to 7, adds instructions
// between rounds.
func roundsAESNI(encrypt bool, label string, between func(j int)) {
	round, last := AESENC, AESENCLAST
	if !encrypt {
		round, last = AESDEC, AESDECLAST
	}
	for r := 1; r < 14; r++ {
		MOVOU(at(RAX, block*r), X8)
		if r == 10 {
			CMPQ(RBX, Imm(10))
			JEQ(LabelRef(label + "_last"))
		}
		for j := range 8 {
			round(X8, xmm[j])
		}
		if between != nil && r <= 8 {
			between(r - 1)
		}
	}
	MOVOU(at(RAX, block*14), X8)
	Label(label + "_last")
	for j := range 8 {
		last(X8, xmm[j])
	}
}

// sectorsAESNI works on eight blocks at a time, then on what is left of a sector
// one by one. The next eight tweaks are computed between the rounds.
//
//	X0-X7 data, X8 round key, X9 scratch, X10 next tweak, X11 the polynomial
//	AX keys, BX rounds, DI dst, SI src, DX tweaks, CX sectors left,
//	R8 blocks of a sector, R10 blocks left of it, R9 stack, R13 and R14 eight
//	tweaks each, of these blocks and of the next
func sectorsAESNI(encrypt bool) {
	poly := constants("poly"+direction(encrypt, "E", "D"), 0x87, 1)
	const eight = 8 * block
	sectors(direction(encrypt, "encryptAESNI", "decryptAESNI"), "1", 2*eight, tweaksAESNI)
	MOVOU(poly, X11)
	MOVQ(R9, R13)
	LEAQ(at(R9, eight), R14)
	// tweak stores tweak j for later and goes on to the next.
	tweak := func(j int, base Register) {
		MOVO(X10, at(base, block*j))
		double()
	}
	Label("sector")
	MOVOU(at(RDX, 0), X10)
	ADDQ(Imm(block), RDX)
	for j := range 8 {
		tweak(j, R13)
	}
	MOVQ(R8, R10)
	SUBQ(Imm(8), R10)
	JL(LabelRef("rest"))

	Label("eight")
	MOVOU(at(RAX, 0), X8)
	for j := range 8 {
		MOVOU(at(RSI, block*j), xmm[j])
		PXOR(at(R13, block*j), xmm[j])
		PXOR(X8, xmm[j])
	}
	roundsAESNI(encrypt, "data", func(j int) { tweak(j, R14) })
	for j := range 8 {
		PXOR(at(R13, block*j), xmm[j])
		MOVOU(xmm[j], at(RDI, block*j))
	}
	XCHGQ(R13, R14)
	ADDQ(I32(eight), RSI)
	ADDQ(I32(eight), RDI)
	SUBQ(Imm(8), R10)
	JGE(LabelRef("eight"))

	Label("rest")
	ADDQ(Imm(8), R10)
	JZ(LabelRef("next"))
	oneByOneAESNI(encrypt)
	Label("next")
	DECQ(RCX)
	JNZ(LabelRef("sector"))

	clearXMM()
	for o := 0; o < 2*eight; o += block {
		MOVO(X0, at(R9, o))
	}
	clearTweaks(8, func(base Register) {
		for j := range 8 {
			MOVO(X0, at(base, block*j))
		}
	}, 2*eight)
	RET()
}

// oneByOneAESNI works on R10 blocks, 1 to 7, whose tweaks are at R13. R11 is the
// round key's address, R8 the rounds left, R12 the offset of the tweak.
func oneByOneAESNI(encrypt bool) {
	round, last := AESENC, AESENCLAST
	if !encrypt {
		round, last = AESDEC, AESDECLAST
	}
	XORQ(R12, R12)
	Label("one")
	MOVOU(at(RSI, 0), X0)
	PXOR(Mem{Base: R13, Index: R12, Scale: 1}, X0)
	MOVOU(at(RAX, 0), X8)
	PXOR(X8, X0)
	LEAQ(at(RAX, block), R11)
	MOVQ(RBX, R8)
	Label("round")
	MOVOU(at(R11, 0), X8)
	ADDQ(Imm(block), R11)
	DECQ(R8)
	JZ(LabelRef("round_last"))
	round(X8, X0)
	JMP(LabelRef("round"))
	Label("round_last")
	last(X8, X0)
	PXOR(Mem{Base: R13, Index: R12, Scale: 1}, X0)
	MOVOU(X0, at(RDI, 0))
	ADDQ(Imm(block), R12)
	ADDQ(Imm(block), RSI)
	ADDQ(Imm(block), RDI)
	DECQ(R10)
	JNZ(LabelRef("one"))
	Load(Param("groups"), R8)
}

// clearTweaks clears the first tweaks, n at a time, which start at R9+offset.
func clearTweaks(n int, zero func(base Register), offset int) {
	Load(Param("sectors"), RCX)
	LEAQ(at(R9, offset), RDI)
	Label("wipe")
	zero(RDI)
	ADDQ(I32(int32(n*block)), RDI)
	SUBQ(Imm(uint64(n)), RCX)
	JG(LabelRef("wipe"))
}

// double multiplies the tweak in X10 by x: both halves are shifted by one bit;
// what falls out of the lower goes into the upper, what falls out of the upper
// into the lower as the polynomial. X9 is overwritten.
func double() {
	PSHUFD(Imm(0x13), X10, X9)
	PSRAL(Imm(31), X9)
	PAND(X11, X9)
	PADDQ(X10, X10)
	PXOR(X9, X10)
}

// constants declares 64-bit words.
func constants(name string, words ...uint64) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i, w := range words {
		DATA(8*i, U64(w))
	}
	return m
}
