package main

// expandKeys computes the key schedule of FIPS 197, and that of its equivalent
// inverse cipher. AESE of a word that fills all four columns, with the key 0, is
// its SubWord: ShiftRows changes nothing.
//
//	R0 key, R1 rounds, R2 enc, R3 dec, R4 round constant
//	V0 and V1 the last round keys, V2 to V4 scratch, V31 zero
func expandKeys() {
	text("expandKeys", "NOSPLIT", 0, 32,
		"func expandKeys(key *byte, rounds int, enc, dec *byte)",
		"expandKeys writes the round keys for AESE to enc, for AESD to dec.",
		"key has 16 bytes for 10 rounds, 32 for 14.")
	emit(`MOVD key+0(FP), R0
		MOVD rounds+8(FP), R1
		MOVD enc+16(FP), R2
		MOVD dec+24(FP), R3
		VEOR %s, %[1]s, %[1]s`, v(31))
	emit(`VLD1.P 16(R0), [V0.B16]
		VST1.P [V0.B16], 16(R2)
		CMP $10, R1
		BNE long`)

	comment("AES-128: each round key from the one before.")
	rcon := 1
	for range 10 {
		nextRoundKey(0, 0, rcon)
		rcon <<= 1
		if rcon > 0xff {
			rcon ^= 0x11b
		}
	}
	emit("JMP inverse")

	label("long")
	comment("AES-256: each from the two before; every other without rotation and constant.")
	emit(`VLD1 (R0), [V1.B16]
		VST1.P [V1.B16], 16(R2)`)
	rcon = 1
	for i := 2; i <= 14; i += 2 {
		nextRoundKey(0, 1, rcon)
		rcon <<= 1
		if i < 14 {
			nextRoundKey(1, 0, 0)
		}
	}

	label("inverse")
	comment("The other way round, all but the ends through InvMixColumns.")
	emit(`SUB $16, R2
		VLD1 (R2), [V0.B16]
		VST1.P [V0.B16], 16(R3)
		SUB $1, R1`)
	label("mix")
	emit(`SUB $16, R2
		VLD1 (R2), [V0.B16]
		AESIMC V0.B16, V0.B16
		VST1.P [V0.B16], 16(R3)
		SUBS $1, R1
		BNE mix
		SUB $16, R2
		VLD1 (R2), [V0.B16]
		VST1 [V0.B16], (R3)`)
	clearVectors()
	emit("RET")
}

// nextRoundKey makes k, four words, the next round key, and stores it: each word
// is added to all after it, and SubWord of the last word of from to all, rotated
// and with the round constant if there is one.
func nextRoundKey(k, from, rcon int) {
	emit(`VDUP V%d.S[3], V2.S4
		AESE V31.B16, V2.B16`, from)
	if rcon != 0 {
		emit(`VUSHR $8, V2.S4, V3.S4
			VSHL $24, V2.S4, V2.S4
			VEOR V3.B16, V2.B16, V2.B16
			MOVD $%d, R4
			VDUP R4, V3.S4
			VEOR V3.B16, V2.B16, V2.B16`, rcon)
	}
	for range 3 {
		emit(`VEXT $12, %s, V31.B16, V4.B16
			VEOR V4.B16, %[1]s, %[1]s`, v(k))
	}
	emit(`VEOR V2.B16, %s, %[1]s
		VST1.P [%[1]s], 16(R2)`, v(k))
}
