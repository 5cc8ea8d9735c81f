package main

// The general registers of eight tweaks, their lower and upper halves. R18, and
// R27 up, are not ours.
var (
	low  = [8]string{"R9", "R11", "R13", "R15", "R17", "R20", "R22", "R24"}
	high = [8]string{"R10", "R12", "R14", "R16", "R19", "R21", "R23", "R25"}
)

// sectors declares a function on whole sectors, eight blocks at a time, then what
// is left of a sector one by one. The next eight tweaks are computed between the
// rounds in the general registers, which AES leaves idle.
//
//	V0-V7 data, V8-V15 tweaks, V16-V30 round keys: V30 the last one, V16 the
//	first of 14 rounds, V20 of 10
//	R0 dst, R1 src, R2 first tweaks, R3 sectors left, R4 blocks of a sector,
//	R5 blocks left of it, R6 rounds, R7 the polynomial, R8 scratch,
//	R9-R17 and R19-R25 the next eight tweaks, R26 sectors, rounded up to eight
func sectors(name, round, mix string) {
	const frame = batch * block
	text(name, "0", frame, 72,
		"func "+name+"(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)",
		name+" works on up to 64 sectors of as many groups of one block.",
		"data and tweak are round keys.")
	emit(`MOVD rounds+16(FP), R6
		MOVD sectors+40(FP), R3
		MOVD first+56(FP), R4
		MOVD step+64(FP), R5
		ADD $7, R3, R26
		AND $~7, R26, R26`)
	comment("The first tweaks: sector numbers, enciphered eight at a time.")
	emit("MOVD tweak+8(FP), R7")
	loadKeys("tweak")
	emit(`MOVD $tweaks-%d(SP), R2
		MOVD R26, R3`, frame)
	label("numbers")
	for j := range 8 {
		emit(`FMOVD R4, F%d
			ADD R5, R4, R4`, j)
	}
	rounds("numbers", "AESE", "AESMC", 8, nil)
	for j := range 8 {
		emit("VEOR V30.B16, %s, %[1]s", v(j))
	}
	emit(`VST1.P %s, 64(R2)
		VST1.P %s, 64(R2)
		SUBS $8, R3, R3
		BNE numbers`, list(0, 4), list(4, 4))

	emit("MOVD data+0(FP), R7")
	loadKeys("data")
	emit(`MOVD dst+24(FP), R0
		MOVD src+32(FP), R1
		MOVD $tweaks-%d(SP), R2
		MOVD sectors+40(FP), R3
		MOVD groups+48(FP), R4
		MOVD $0x87, R7`, frame)

	label("sector")
	emit("LDP.P 16(R2), (%s, %s)", low[0], high[0])
	for j := 1; j < 8; j++ {
		double(j-1, j)
	}
	move()
	emit(`SUBS $8, R4, R5
		BLT rest`)

	label("eight")
	emit(`VLD1.P 64(R1), %s
		VLD1.P 64(R1), %s`, list(0, 4), list(4, 4))
	for j := range 8 {
		emit("VEOR %s, %s, %[2]s", v(8+j), v(j))
	}
	rounds("eight", round, mix, 8, func(j int) { double((j+7)%8, j) })
	for j := range 8 {
		emit(`VEOR V30.B16, %s, %[1]s
			VEOR %[1]s, %s, %[2]s`, v(8+j), v(j))
	}
	emit(`VST1.P %s, 64(R0)
		VST1.P %s, 64(R0)`, list(0, 4), list(4, 4))
	move()
	emit(`SUBS $8, R5, R5
		BGE eight`)

	label("rest")
	emit(`ADDS $8, R5, R5
		BEQ next`)
	label("one")
	emit("VLD1.P 16(R1), [V0.B16]")
	set(8, 0)
	emit("VEOR V8.B16, V0.B16, V0.B16")
	rounds("one", round, mix, 1, nil)
	emit(`VEOR V30.B16, V8.B16, V8.B16
		VEOR V8.B16, V0.B16, V0.B16
		VST1.P [V0.B16], 16(R0)`)
	double(0, 0)
	emit(`SUBS $1, R5, R5
		BNE one`)
	label("next")
	emit(`SUBS $1, R3, R3
		BNE sector`)

	clearVectors()
	emit("MOVD $tweaks-%d(SP), R2", frame)
	label("wipe")
	emit(`VST1.P %s, 64(R2)
		VST1.P %s, 64(R2)
		SUBS $8, R26, R26
		BNE wipe`, list(0, 4), list(4, 4))
	emit("MOVD ZR, R8")
	for j := range 8 {
		emit("MOVD ZR, %s\nMOVD ZR, %s", low[j], high[j])
	}
	emit("RET")
}

// loadKeys loads the round keys at R7, the last one into V30.
func loadKeys(name string) {
	emit(`CMP $10, R6
		BEQ %s_short
		VLD1.P 64(R7), %s`, name, list(16, 4))
	label(name + "_short")
	emit(`VLD1.P 64(R7), %s
		VLD1.P 64(R7), %s
		VLD1 (R7), %s`, list(20, 4), list(24, 4), list(28, 3))
}

// rounds does all rounds on n blocks from V0 on but the addition of the last
// round key. between(j), for j from 0 to 7, adds instructions between rounds.
func rounds(name, round, mix string, n int, between func(j int)) {
	emit(`CMP $10, R6
		BEQ %s_short`, name)
	for key := 16; key < 30; key++ {
		if key == 20 {
			label(name + "_short")
		}
		for j := range n {
			emit("%s %s, %s", round, v(key), v(j))
			if key < 29 {
				emit("%s %s, %[2]s", mix, v(j))
			}
		}
		if between != nil && key >= 20 && key < 28 {
			between(key - 20)
		}
	}
}

// double makes tweak to the product of tweak from and x: what falls out at the
// top comes back as the polynomial.
func double(from, to int) {
	l, h := low[from], high[from]
	emit("ASR $63, %s, R8", h)
	emit("EXTR $63, %s, %s, %s", l, h, high[to])
	emit("AND R7, R8, R8")
	emit("EOR %s<<1, R8, %s", l, low[to])
}

// move puts the eight tweaks into V8 to V15.
func move() {
	for j := range 8 {
		set(8+j, j)
	}
}

func set(vector, tweak int) {
	emit("FMOVD %s, F%d", low[tweak], vector)
	emit("VMOV %s, V%d.D[1]", high[tweak], vector)
}
