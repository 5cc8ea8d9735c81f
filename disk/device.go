package disk

import "errors"

var errStub = errors.New("disk: not built yet")

// Params are the registered parameters of a disk.
type Params struct {
	Key        []byte // volume key, 32 or 64 bytes; not kept, the caller wipes it
	SectorSize uint32 // bytes: 512, 1024, 2048 or 4096
	DataOffset uint64 // bytes from the start of the Backend, a multiple of SectorSize
	Length     uint64 // bytes, a multiple of SectorSize: the size of the Device
	IVTweak    uint64 // tweak of the first sector, in units of 512 bytes
	ReadOnly   bool
	Discard    bool // trim reaches the Backend
}

// Device is a disk of plain bytes.
type Device struct{ p Params }

func NewDevice(b Backend, p Params) (*Device, error)       { return nil, errStub }
func (d *Device) ReadAt(p []byte, off int64) (int, error)  { return 0, errStub }
func (d *Device) WriteAt(p []byte, off int64) (int, error) { return 0, errStub }
func (d *Device) WriteZeroes(off, n int64) error           { return errStub }
func (d *Device) Trim(off, n int64) error                  { return errStub }
func (d *Device) Flush() error                             { return errStub }
func (d *Device) Size() int64                              { return int64(d.p.Length) }
func (d *Device) ReadOnly() bool                           { return d.p.ReadOnly }
func (d *Device) CanTrim() bool                            { return d.p.Discard && !d.p.ReadOnly }
func (d *Device) Close() error                             { return errStub }
