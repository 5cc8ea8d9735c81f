package disk

import (
	"errors"
	"testing"

	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/xts"
)

// TestCloseWipes: no round key is left behind Close.
func TestCloseWipes(t *testing.T) {
	d, err := NewDevice(disktest.New(8192), Params{Key: testKey(64), SectorSize: 512, Length: 8192})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	if err := d.cipher.EncryptSectors(buf, buf, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.cipher.EncryptSectors(buf, buf, 0); !errors.Is(err, xts.ErrWiped) {
		t.Errorf("the cipher of a closed device: %v, want %v", err, xts.ErrWiped)
	}
}
