package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

var ymm = []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7}

// sectorsVAES256 works on groups of 16 blocks, two in a register, in the same
// order as sectorsVAES512. Tweaks are kept on the stack.
//
//	Y0-Y7 data, Y8 round key, Y9 and Y10 scratch, Y11 a tweak of the next group,
//	Y12 its first two tweaks, Y13 their halves swapped, Y14 and Y15 shift counts
//	AX keys, BX rounds, DI dst, SI src, DX tweaks, R8 groups of a sector,
//	R10:R11 next first tweak, R12 groups left of its sector, R13 groups left in
//	all, R14 and R9 the stack of this group and of the next
func sectorsVAES256(encrypt bool) {
	suffix := direction(encrypt, "E", "D")
	left := constants("left256"+suffix, 0, 0, 1, 1)
	right := constants("right256"+suffix, 64, 64, 63, 63)
	// Shifts of what fell out at the top. A shift by 64 leaves 0, in the upper half.
	by1 := constants("by1"+suffix, 1, 64, 1, 64)
	by2 := constants("by2"+suffix, 2, 64, 2, 64)
	by7 := constants("by7"+suffix, 7, 64, 7, 64)
	const ( // offsets from R14 and R9
		tweaks = 0
		slot   = tweaks + 8*32 // the first tweak, and its halves swapped
		half   = slot + 64
	)
	sectors(direction(encrypt, "encryptVAES256", "decryptVAES256"), "16", 2*half, tweaksAESNI)
	MOVQ(R9, R14)
	ADDQ(I32(half), R9)
	VMOVDQU(by1, Y14)
	VMOVDQU(by2, Y15)
	MOVQ(RCX, R13)
	IMULQ(R8, R13)

	// tweak computes the tweaks of vector j of the group whose stack r is.
	tweak := func(j int, r Register) {
		v := VecPhysical(Y11)
		if j == 0 {
			v = Y12
			VBROADCASTI128(at(r, slot), v)
			VBROADCASTI128(at(r, slot+16), Y9)
			VPSLLVQ(left, v, v)
			VPSRLVQ(right, Y9, Y9)
		} else {
			VPSLLQ(Imm(uint64(2*j)), Y12, v)
			VPSRLQ(Imm(uint64(64-2*j)), Y13, Y9)
		}
		VPXOR(Y9, v, v)
		for _, by := range []Op{Y14, Y15, by7} {
			VPSLLVQ(by, Y9, Y10)
			VPXOR(Y10, v, v)
		}
		if j == 0 {
			VPSHUFD(Imm(0x4e), v, Y13)
		}
		VMOVDQA(v, at(r, tweaks+32*j))
	}
	Comment("The first tweak of the first group, its tweaks, the first tweak of the second.")
	MOVQ(U32(1), R12)
	nextFirst("a", 16)
	storeFirst(R14, slot)
	for j := range 8 {
		tweak(j, R14)
	}
	nextFirst("b", 16)
	storeFirst(R9, slot)

	round, lastRound := VAESENC, VAESENCLAST
	if !encrypt {
		round, lastRound = VAESDEC, VAESDECLAST
	}
	one := func(r int) {
		VBROADCASTI128(at(RAX, block*r), Y8)
		for j := range 8 {
			round(Y8, ymm[j], ymm[j])
		}
	}
	Label("group")
	Comment("The first tweak of the group after the next replaces this group's.")
	nextFirst("c", 16)
	storeFirst(R14, slot)
	VBROADCASTI128(at(RAX, 0), Y8)
	for j := range 8 {
		VPXOR(at(RSI, 32*j), Y8, ymm[j])
		VPXOR(at(R14, tweaks+32*j), ymm[j], ymm[j])
	}
	for r := 1; r < 10; r++ {
		one(r)
		switch {
		case r == 1:
			tweak(0, R9)
		case r > 2:
			tweak(r-2, R9)
		}
	}
	VBROADCASTI128(at(RAX, block*10), Y8)
	CMPQ(RBX, Imm(10))
	JEQ(LabelRef("last"))
	for r := 10; r < 14; r++ {
		one(r)
	}
	VBROADCASTI128(at(RAX, block*14), Y8)
	Label("last")
	for j := range 8 {
		lastRound(Y8, ymm[j], ymm[j])
		VPXOR(at(R14, tweaks+32*j), ymm[j], ymm[j])
		VMOVDQU(ymm[j], at(RDI, 32*j))
	}
	XCHGQ(R9, R14)
	ADDQ(I32(256), RSI)
	ADDQ(I32(256), RDI)
	DECQ(R13)
	JNZ(LabelRef("group"))

	Comment("Leave no key, tweak or data in registers and on the stack.")
	VZEROALL()
	Comment("The lower of the two halves starts the stack.")
	CMPQ(R14, R9)
	CMOVQLT(R14, R9)
	for o := 0; o < 2*half; o += 32 {
		VMOVDQA(Y0, at(R9, o))
	}
	clearTweaks(8, func(base Register) {
		for j := range 4 {
			VMOVDQA(Y0, at(base, 32*j))
		}
	}, 2*half)
	clearGP()
	VZEROUPPER()
	RET()
}
