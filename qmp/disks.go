package qmp

import (
	"fmt"
	"time"
)

// QueryDisksArgs are the arguments of uvbond-query-disks.
type QueryDisksArgs struct {
	VM string `json:"vm"`
}

// QueryDisksResult answers uvbond-query-disks.
type QueryDisksResult struct {
	Disks []DiskState `json:"disks"` // in the registration's order; none without an instance
}

// DiskState is what the provider may know of a running VM's disk. Its storage
// sees the same accesses from the other side.
type DiskState struct {
	Name     string     `json:"name"`
	FrontEnd string     `json:"front-end"` // "nbd" or "vhost-user"
	Size     uint64     `json:"size"`      // bytes, as the guest sees it
	Limits   DiskLimits `json:"limits"`
	Stats    *DiskStats `json:"stats,omitempty"` // absent while the disk has no keeper
}

// DiskLimits bound what a disk does in a second. Zero is no limit.
type DiskLimits struct {
	IOPS  uint64 `json:"iops"`  // requests per second; flushes are free
	Bytes uint64 `json:"bytes"` // bytes per second, read and written
	Burst uint64 `json:"burst"` // for how many seconds' worth of unused service is saved up; 0: one
}

// Least limits and greatest burst. With a queue full of large requests a guest's
// own time-outs, 30 s with ATA and NVMe, are far away.
const (
	MinLimitIOPS  = 100
	MinLimitBytes = 4 << 20
	MaxLimitBurst = 60 // seconds
)

// Validate says what is wrong with l.
func (l DiskLimits) Validate() error {
	switch {
	case l.IOPS > 0 && l.IOPS < MinLimitIOPS:
		return fmt.Errorf("limit of %d requests per second: it must be 0 (none) or at least %d, or the guest's own time-outs would strike", l.IOPS, MinLimitIOPS)
	case l.Bytes > 0 && l.Bytes < MinLimitBytes:
		return fmt.Errorf("limit of %d bytes per second: it must be 0 (none) or at least %d MiB, or the guest's own time-outs would strike", l.Bytes, MinLimitBytes>>20)
	case l.Burst > MaxLimitBurst:
		return fmt.Errorf("burst of %d seconds: it must be 0 to %d", l.Burst, MaxLimitBurst)
	}
	return nil
}

// String is l for people.
func (l DiskLimits) String() string {
	if l.IOPS == 0 && l.Bytes == 0 {
		return "none"
	}
	var s string
	if l.IOPS > 0 {
		s = fmt.Sprintf("%d requests/s, ", l.IOPS)
	}
	if l.Bytes > 0 {
		s += fmt.Sprintf("%d bytes/s, ", l.Bytes)
	}
	return s + fmt.Sprintf("burst %d s", max(1, l.Burst))
}

// DiskStats are counters since the disk's keeper started.
type DiskStats struct {
	Kinds       []KindStats `json:"kinds"`
	Depth       []uint64    `json:"depth"`       // requests by how many were under way, themselves included: entry i is up to 2^i, the last one all beyond
	Enciphered  uint64      `json:"enciphered"`  // bytes through the cipher, either way
	Pending     uint64      `json:"pending"`     // requests under way
	Connections uint64      `json:"connections"` // of the front end, open
	Accepted    uint64      `json:"accepted"`    // connections so far
	Refused     uint64      `json:"refused"`     // connections of others than the VM's QEMU
	Broken      uint64      `json:"broken"`      // vhost-user: queues that were ended because the guest brought them out of order
	// Storage is there when the ciphertext is on an NBD server.
	Storage *StorageStats `json:"storage,omitempty"`
}

// StorageStats are counters of the connections to a disk's storage.
type StorageStats struct {
	Connections uint64 `json:"connections"` // now
	Connects    uint64 `json:"connects"`
	Lost        uint64 `json:"lost"`        // connections that broke
	Failures    uint64 `json:"failures"`    // attempts to connect that failed
	Violations  uint64 `json:"violations"`  // connections ended because the storage broke the protocol
	Stalls      uint64 `json:"stalls"`      // connections ended because nothing was answered for too long
	Resent      uint64 `json:"resent"`      // requests sent again
	Rewritten   uint64 `json:"rewritten"`   // bytes of acknowledged writes made sure of after a connection broke
	LostWrites  uint64 `json:"lost-writes"` // flushes that failed because the storage had lost writes
}

// KindStats are counters of the requests of one kind.
type KindStats struct {
	Kind        string   `json:"kind"` // "read", "write", "flush", "write-zeroes" or "trim"
	Count       uint64   `json:"count"`
	Errors      uint64   `json:"errors"`
	Bytes       uint64   `json:"bytes"`       // without errors
	Nanoseconds uint64   `json:"nanoseconds"` // sum of all latencies
	Latency     []uint64 `json:"latency"`     // requests by latency: entry i is up to 2^i microseconds, the last one all beyond
}

// SetLimitsArgs are the arguments of uvbond-set-limits.
type SetLimitsArgs struct {
	VM    string `json:"vm"`
	Disk  string `json:"disk"`
	IOPS  uint64 `json:"iops"`
	Bytes uint64 `json:"bytes"`
	Burst uint64 `json:"burst"`
}

// VMLimits are the limits of one disk of a VM.
type VMLimits struct {
	Disk  string `json:"disk"`
	IOPS  uint64 `json:"iops"`
	Bytes uint64 `json:"bytes"`
	Burst uint64 `json:"burst"`
}

// Quantile returns how long the fastest q (0 to 1) of the requests took at most,
// as exactly as the buckets tell: up to twice as long as it was. 0 without requests.
func (k *KindStats) Quantile(q float64) time.Duration {
	var total, sum uint64
	for _, n := range k.Latency {
		total += n
	}
	for i, n := range k.Latency[:min(len(k.Latency), 40)] {
		if sum += n; sum > 0 && float64(sum) >= q*float64(total) {
			return time.Duration(uint64(1)<<i) * time.Microsecond
		}
	}
	return 0
}

// Mean returns the mean latency, 0 without requests.
func (k *KindStats) Mean() time.Duration {
	return time.Duration(k.Nanoseconds / max(1, k.Count))
}

// GrowArgs are the arguments of uvbond-grow. The descriptor of the disk's
// ciphertext, which has grown already, travels beside the request.
type GrowArgs struct {
	Disk string `json:"disk"`
	Size uint64 `json:"size"` // bytes, as the guest will see it
}

// GrowResult answers uvbond-grow.
type GrowResult struct {
	Old   uint64 `json:"old"` // bytes
	New   uint64 `json:"new"` // bytes
	Guest string `json:"guest"`
}

// Values of GrowResult.Guest.
const (
	GuestTold      = "told"       // the running guest was told of the new size
	GuestNextStart = "next-start" // the guest learns it at the VM's next start
)
