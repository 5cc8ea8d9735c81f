package bond

import "crypto/sha256"

// Message is one of the messages that are sealed under K: *Confirmation,
// *BootTicket, *Descriptor, *Ticket, *Receipt, *AuditChunk, *ConsoleChunk, *Delegation.
type Message interface {
	purpose() Purpose
	validate() error
}

// Confirmation proves that the hypervisor derived the same K as the tenant: that
// it has this disk key, from this registration. Check compares its contents.
type Confirmation struct {
	Transcript [32]byte `cbor:"transcript"`
	Versions   []uint16 `cbor:"versions"`  // that the hypervisor speaks
	HostTime   int64    `cbor:"host-time"` // Unix seconds
	Policy     string   `cbor:"policy"`    // in force
}

// BootTicket authorises one start of the VM.
type BootTicket struct {
	Nonce           [32]byte `cbor:"nonce"`     // random, used once
	Command         string   `cbor:"command"`   // management command, "start"
	Automaton       string   `cbor:"automaton"` // text with one automaton of that name
	NotBefore       int64    `cbor:"not-before"`
	NotAfter        int64    `cbor:"not-after"`        // Unix seconds, at most MaxValidity after NotBefore
	DeadlineSeconds uint32   `cbor:"deadline-seconds"` // of the session; 0: what the automaton says
}

// Ticket authorises one management command on one VM instance.
type Ticket struct {
	Nonce           [32]byte `cbor:"nonce"`     // random, used once
	Command         string   `cbor:"command"`   // management command
	Automaton       string   `cbor:"automaton"` // text with one automaton of that name
	NotBefore       int64    `cbor:"not-before"`
	NotAfter        int64    `cbor:"not-after"`        // Unix seconds, at most MaxValidity after NotBefore
	DeadlineSeconds uint32   `cbor:"deadline-seconds"` // of the session; 0: what the automaton says
	Descriptor      []byte   `cbor:"descriptor"`       // 32 bytes; empty only for commands that touch no instance
	Policy          *string  `cbor:"policy"`           // new policy for uvbond-set-policy, else nil
}

// Descriptor is the capability for one VM instance. New for every start.
type Descriptor struct {
	Value     [32]byte `cbor:"value"`
	Instance  uint64   `cbor:"instance"`   // counts the starts of the VM from 1
	BootNonce [32]byte `cbor:"boot-nonce"` // nonce of the boot ticket that started it
	StartedAt int64    `cbor:"started-at"` // Unix seconds
}

// Verdicts of a receipt.
const (
	VerdictDone       = "done"       // the automaton was followed to an end
	VerdictRefused    = "refused"    // nothing was executed
	VerdictIncomplete = "incomplete" // begun and not finished
)

// Verdicts of a call.
const (
	CallOK      = "ok"      // executed
	CallError   = "error"   // executed, and QEMU answered with an error
	CallRefused = "refused" // not executed
)

// Receipt says what was done under a ticket.
type Receipt struct {
	Nonce     [32]byte `cbor:"nonce"`      // of the ticket
	Command   string   `cbor:"command"`    // of the ticket
	Instance  uint64   `cbor:"instance"`   // 0 when the VM never ran
	Verdict   string   `cbor:"verdict"`    // VerdictDone, VerdictRefused, VerdictIncomplete
	Class     string   `cbor:"class"`      // of the error, empty when done
	Reason    string   `cbor:"reason"`     // for people, empty when done
	Calls     []Call   `cbor:"calls"`      // at most MaxCalls, in order
	State     string   `cbor:"state"`      // of the VM afterwards
	HostTime  int64    `cbor:"host-time"`  // Unix seconds
	AuditSeq  uint64   `cbor:"audit-seq"`  // number of records in the audit chain so far
	AuditHead [32]byte `cbor:"audit-head"` // chain value after those records
}

// Call is one hypercall of a session.
type Call struct {
	Command   string   `cbor:"command"`
	Arguments string   `cbor:"arguments"` // see CallArguments
	Verdict   string   `cbor:"verdict"`   // CallOK, CallError, CallRefused
	Detail    string   `cbor:"detail"`
	Result    [32]byte `cbor:"result"` // SHA-256 of the JSON answer, zero without one
}

// AuditChunk carries records of the audit chain to the owner.
type AuditChunk struct {
	Nonce   [32]byte `cbor:"nonce"`   // of the ticket
	From    uint64   `cbor:"from"`    // sequence number of the first record
	Records [][]byte `cbor:"records"` // each an encoded AuditRecord
	Head    [32]byte `cbor:"head"`    // chain value after the last record in here
	Next    uint64   `cbor:"next"`    // From plus the number of records
	More    bool     `cbor:"more"`    // there are records from Next on
}

// ConsoleChunk carries serial output to the owner. Offsets count bytes since the
// instance started.
type ConsoleChunk struct {
	Nonce    [32]byte `cbor:"nonce"` // of the ticket
	Instance uint64   `cbor:"instance"`
	Offset   uint64   `cbor:"offset"` // of the first byte of Data
	Data     []byte   `cbor:"data"`
	End      uint64   `cbor:"end"`  // offset after all output so far
	Lost     uint64   `cbor:"lost"` // bytes asked for that the bounded ring no longer holds
}

func (*Confirmation) purpose() Purpose { return PurposeConfirmation }
func (*BootTicket) purpose() Purpose   { return PurposeBootTicket }
func (*Descriptor) purpose() Purpose   { return PurposeDescriptor }
func (*Ticket) purpose() Purpose       { return PurposeTicket }
func (*Receipt) purpose() Purpose      { return PurposeReceipt }
func (*AuditChunk) purpose() Purpose   { return PurposeAudit }
func (*ConsoleChunk) purpose() Purpose { return PurposeConsole }

// argumentDigestPrefix marks arguments that are given by their hash.
const argumentDigestPrefix = "sha256:"

// CallArguments returns what stands in Call.Arguments for arguments in canonical
// JSON: the text itself up to MaxArguments bytes and without control characters, else
// "sha256:" and the hexadecimal hash.
func CallArguments(canonical []byte) string {
	text := string(canonical)
	if validText("arguments", text, MaxArguments) == nil {
		return text
	}
	return argumentDigest(text)
}

func argumentDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return argumentDigestPrefix + HostID(sum).String()
}
