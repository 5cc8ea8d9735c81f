package disk

// encipher fills p.buf with the ciphertext of its data.
func (d *Device) encipher(p *piece) (err error) {
	r, tweak := p.r, d.tweak(p.off())
	switch {
	case p.kind == inPlace:
		return d.cipher.EncryptSectors(p.buf, p.buf, tweak)
	case r.Op == WriteZeroes:
		return d.cipher.EncryptSectors(p.buf, zeros[:p.n], tweak)
	}
	defer func() {
		if v := recover(); v != nil {
			err = recovered(v)
		}
	}()
	return d.sectors(p, p.n, func(dst, plain []byte, tweak uint64) error {
		if plain != nil {
			return d.cipher.EncryptSectors(dst, plain, tweak)
		}
		return d.cipher.EncryptSectors(dst, dst, tweak)
	}, false)
}

// decipher turns the first n bytes of p.buf, whole sectors, into plain text where
// the caller wants it.
func (d *Device) decipher(p *piece, n int) (err error) {
	if p.kind == inPlace {
		return d.cipher.DecryptSectors(p.buf[:n], p.buf[:n], d.tweak(p.off()))
	}
	defer func() {
		if v := recover(); v != nil {
			err = recovered(v)
		}
	}()
	return d.sectors(p, n, func(src, plain []byte, tweak uint64) error {
		if plain != nil {
			return d.cipher.DecryptSectors(plain, src, tweak)
		}
		return d.cipher.DecryptSectors(src, src, tweak)
	}, true)
}

// sectors walks over n bytes of a buffered piece and its data. It calls crypt with
// runs of whole sectors of the buffer and the same run of plain text. A sector
// that lies in several segments is gathered in the buffer before crypt, or
// scattered from there after it; plain is nil then.
func (d *Device) sectors(p *piece, n int, crypt func(buf, plain []byte, tweak uint64) error, read bool) error {
	at, tweak := p.from, d.tweak(p.off())
	for done := 0; done < n; {
		at.skipEmpty(p.r.Data)
		seg := p.r.Data[at.seg][at.in:]
		run := min(len(seg), n-done)
		run -= run % int(d.sector)
		var plain []byte
		if run > 0 {
			plain = seg[:run]
		} else {
			run = int(d.sector)
		}
		buf := p.buf[done : done+run]
		if plain == nil && !read {
			if err := copySegments(p.r, at, buf, false); err != nil {
				return err
			}
		}
		if err := crypt(buf, plain, tweak+uint64(done)/512); err != nil {
			return err
		}
		if plain == nil && read {
			if err := copySegments(p.r, at, buf, true); err != nil {
				return err
			}
			clear(buf)
		}
		at.forward(p.r.Data, run)
		done += run
	}
	return nil
}

// copySegments copies between buf and the Request's data from at on: into the data
// if out is true.
func copySegments(r *Request, at place, buf []byte, out bool) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = recovered(v)
		}
	}()
	for len(buf) > 0 {
		at.skipEmpty(r.Data)
		seg := r.Data[at.seg][at.in:]
		n := min(len(seg), len(buf))
		if out {
			copy(seg, buf[:n])
		} else {
			copy(buf[:n], seg)
		}
		at.forward(r.Data, n)
		buf = buf[n:]
	}
	return nil
}

var zeros [MaxPiece]byte
