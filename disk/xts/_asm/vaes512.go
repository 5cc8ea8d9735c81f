package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

var zmm = []VecPhysical{
	Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
	Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
}

func clearZMM() {
	Comment("Leave no key, tweak or data in registers.")
	for _, z := range zmm[16:] {
		VPXORQ(z, z, z)
	}
	for _, x := range xmm { // the whole register
		VPXOR(x, x, x)
	}
}

// tweaksVAES512 enciphers sector numbers, sixteen at a time, the last ones
// first, so that it leaves the first four in Z0. Z0-Z3 are blocks, Z4 the next
// numbers, Z5 and Z6 four and 28 steps, Z8 the round key.
func tweaksVAES512(lanes Mem) {
	Comment("The number of lane i is first + i*step; its upper half is 0.")
	CMPQ(RCX, Imm(4))
	JLE(LabelRef("few"))
	DECQ(RCX)
	ANDQ(I32(-16), RCX)
	MOVQ(RCX, R11)
	IMULQ(R10, R11)
	ADDQ(R11, R8)
	MOVQ(RCX, R11)
	SHLQ(Imm(4), R11)
	ADDQ(R11, RDI)
	VPBROADCASTQ_Z(R10, K1, Z5)
	VPMULLQ(lanes, Z5, Z4)
	VPBROADCASTQ_Z(R8, K1, Z6)
	VPADDQ(Z6, Z4, Z4)
	VPSLLQ(Imm(2), Z5, Z5)
	VPSLLQ(Imm(3), Z5, Z6)
	VPSUBQ(Z5, Z6, Z6)
	Label("numbers")
	roundsOfNumbers("numbers", 4, func(j int) {
		VPXORQ(Z8, Z4, zmm[j])
		if j < 3 {
			VPADDQ(Z5, Z4, Z4)
		}
	})
	VPSUBQ(Z6, Z4, Z4)
	SUBQ(I32(16*block), RDI)
	SUBQ(Imm(16), RCX)
	JGE(LabelRef("numbers"))
	JMP(LabelRef("numbered"))

	Label("few")
	VPBROADCASTQ_Z(R10, K1, Z5)
	VPMULLQ(lanes, Z5, Z4)
	VPBROADCASTQ_Z(R8, K1, Z6)
	VPADDQ(Z6, Z4, Z0)
	roundsOfNumbers("few", 1, func(int) { VPXORQ(Z8, Z0, Z0) })
	Label("numbered")
}

// roundsOfNumbers enciphers n vectors from Z0 on, which start adds the first
// round key to, and stores them at DI.
func roundsOfNumbers(label string, n int, start func(j int)) {
	VBROADCASTI32X4(at(RAX, 0), Z8)
	for j := range n {
		start(j)
	}
	for r := 1; r < 14; r++ {
		VBROADCASTI32X4(at(RAX, block*r), Z8)
		if r == 10 {
			CMPQ(RBX, Imm(10))
			JEQ(LabelRef(label + "_last"))
		}
		for j := range n {
			VAESENC(Z8, zmm[j], zmm[j])
		}
	}
	VBROADCASTI32X4(at(RAX, block*14), Z8)
	Label(label + "_last")
	for j := range n {
		VAESENCLAST(Z8, zmm[j], zmm[j])
		VMOVDQA64(zmm[j], at(RDI, 64*j))
	}
}

// The stack of sectorsVAES512: offsets from R9.
const (
	final512  = 0               // tweaks with the last round key added
	last512   = final512 + 8*64 // the last round key four times
	swap512   = last512 + 64    // the first four tweaks, their halves swapped
	slots512  = swap512 + 64    // twice: a first tweak, and its halves swapped
	locals512 = slots512 + 2*64
)

// sectorsVAES512 works on groups of 32 blocks, four in a register. While a
// group goes through the rounds, the tweaks of the next one are computed
// between them, and the first tweak of the one after that in the general
// registers. Between groups stands as little as possible: a core that two
// threads share looks half as far ahead, and would leave its AES units idle.
// For the same reason nothing is computed that no group will need: the last
// group stands apart.
//
//	Z0-Z7 data, Z8-Z15 tweaks, Z16-Z28 round keys 1 to 13, Z29-Z31 scratch
//	AX keys, BX rounds, DI dst, SI src, DX tweaks, R8 groups of a sector,
//	R9 stack, R10:R11 next first tweak, R12 groups left of its sector,
//	R13 groups left in all, R14 the slot of the next group's first tweak
func sectorsVAES512(encrypt bool) {
	suffix := direction(encrypt, "E", "D")
	left := constants("left512"+suffix, 0, 0, 1, 1, 2, 2, 3, 3)
	right := constants("right512"+suffix, 64, 64, 63, 63, 62, 62, 61, 61)
	lanes := constants("lanes"+suffix, 0, 0, 1, 0, 2, 0, 3, 0)
	static(slots512 % 128) // so that XOR 64 goes from one slot to the other
	sectors(direction(encrypt, "encryptVAES512", "decryptVAES512"), "32", locals512, func() {
		MOVL(U32(0x55), ESI)
		KMOVW(ESI, K1)
		tweaksVAES512(lanes)
	})
	for r := 1; r < 14; r++ {
		VBROADCASTI32X4(at(RAX, block*r), zmm[15+r])
	}
	SHLQ(Imm(4), RBX)
	VBROADCASTI32X4(Mem{Base: RAX, Index: RBX, Scale: 1}, Z29)
	VMOVDQA64(Z29, at(R9, last512))
	SHRQ(Imm(4), RBX)
	MOVQ(RCX, R13)
	IMULQ(R8, R13)
	LEAQ(at(R9, slots512), R14)

	Comment("The tweaks of the first group, which does not wait for the general registers.")
	VSHUFI64X2(Imm(0), Z0, Z0, Z8)
	VPSHUFD(Imm(0x4e), Z8, Z29)
	firstVAES512(left, right)
	VPSHUFD(Imm(0x4e), Z8, Z7)
	for j := 1; j < 8; j++ {
		tweakVAES512(j, Z7)
	}
	DECQ(R13)
	JZ(LabelRef("final"))
	Comment("The first tweak of the second.")
	MOVQ(U32(1), R12)
	nextFirst("a", 32)
	nextFirst("b", 32)
	storeFirst(R14, 0)

	Label("group")
	groupVAES512(encrypt, "group", func() { firstVAES512(left, right) })
	ADDQ(I32(512), RSI)
	ADDQ(I32(512), RDI)
	DECQ(R13)
	JNZ(LabelRef("group"))
	Label("final")
	groupVAES512(encrypt, "final", nil)

	clearZMM()
	for o := 0; o < locals512; o += 64 {
		VMOVDQA64(Z0, at(R9, o))
	}
	clearTweaks(16, func(base Register) {
		for j := range 4 {
			VMOVDQA64(Z0, at(base, 64*j))
		}
	}, locals512)
	clearGP()
	VZEROUPPER()
	RET()
}

// firstVAES512 computes the first four tweaks of a group from its first one, four
// times in Z8, and with its halves swapped in Z29.
func firstVAES512(left, right Mem) {
	VPSLLVQ(left, Z8, Z8)
	VPSRLVQ(right, Z29, Z29)
	foldVAES512(Z8)
}

// tweakVAES512 computes the tweaks of vector j, from 1 on, of the next group:
// those of vector 0, in Z8, times x to the power of 4*j. What falls out of each
// half is in the other one of swapped.
func tweakVAES512(j int, swapped Op) {
	VPSLLQ(Imm(uint64(4*j)), Z8, zmm[8+j])
	VPSRLQ(Imm(uint64(64-4*j)), swapped, Z29)
	foldVAES512(zmm[8+j])
}

// foldVAES512 adds what fell out, in Z29, to v.
func foldVAES512(v VecPhysical) {
	VPSLLQ_Z(Imm(1), Z29, K1, Z30)
	VPTERNLOGQ(Imm(0x96), Z30, Z29, v)
	VPSLLQ_Z(Imm(2), Z29, K1, Z30)
	VPSLLQ_Z(Imm(7), Z29, K1, Z31)
	VPTERNLOGQ(Imm(0x96), Z31, Z30, v)
}

// groupVAES512 does all rounds of a group, and computes the tweaks of the next
// one, whose first four first computes, if there is one.
func groupVAES512(encrypt bool, label string, first func()) {
	round, lastRound := VAESENC, VAESENCLAST
	if !encrypt {
		round, lastRound = VAESDEC, VAESDECLAST
	}
	VBROADCASTI32X4(at(RAX, 0), Z29)
	for j := range 8 {
		VMOVDQU64(at(RSI, 64*j), zmm[j])
		VPTERNLOGQ(Imm(0x96), Z29, zmm[8+j], zmm[j])
	}
	for r := 1; r < 14; r++ {
		if r == 10 {
			CMPQ(RBX, Imm(10))
			JEQ(LabelRef(label + "_last"))
		}
		for j := range 8 {
			round(zmm[15+r], zmm[j], zmm[j])
		}
		if first != nil {
			betweenVAES512(r, label, first)
		} else if r <= 8 {
			VPXORQ(at(R9, last512), zmm[7+r], zmm[7+r])
		}
	}
	Label(label + "_last")
	for j := range 8 {
		if first != nil {
			lastRound(at(R9, final512+64*j), zmm[j], zmm[j])
		} else {
			lastRound(zmm[8+j], zmm[j], zmm[j])
		}
		VMOVDQU64(zmm[j], at(RDI, 64*j))
	}
}

// betweenVAES512 does after round r what prepares the next groups.
func betweenVAES512(r int, label string, first func()) {
	// keep stores what the last round adds to vector j, before its next tweaks.
	keep := func(j int) {
		VPXORQ(at(R9, last512), zmm[8+j], zmm[8+j])
		VMOVDQA64(zmm[8+j], at(R9, final512+64*j))
	}
	switch {
	case r == 1:
		keep(0)
		VBROADCASTI32X4(at(R14, 0), Z8)
		VBROADCASTI32X4(at(R14, 16), Z29)
		first()
		VPSHUFD(Imm(0x4e), Z8, Z29)
		VMOVDQA64(Z29, at(R9, swap512))
	case r == 2:
		Comment("The first tweak of the group after the next, into the other slot.")
		nextFirst(label, 32)
		XORQ(Imm(64), R14)
		storeFirst(R14, 0)
	case r <= 9:
		keep(r - 2)
		tweakVAES512(r-2, at(R9, swap512))
	}
}
