package bond

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// AuditRecord is one entry of a bond's audit chain. Records count from 0; the
// chain value before the first one is all zero.
type AuditRecord struct {
	Seq    uint64            `cbor:"seq"`
	Time   int64             `cbor:"time"`   // Unix milliseconds, host's clock
	Prev   [32]byte          `cbor:"prev"`   // chain value before this record
	Kind   string            `cbor:"kind"`   // registration, boot, open, call, channel, refused, close, policy, exit, restart, ...
	Who    string            `cbor:"who"`    // sender, as the kernel attested it
	Text   string            `cbor:"text"`   // for people
	Fields map[string]string `cbor:"fields"` // for programs, at most 16
}

// Limits of an audit record, in bytes unless said otherwise.
const (
	maxKind       = 32
	maxWho        = 128
	maxAuditText  = 1024
	maxFields     = 16 // pairs
	maxFieldName  = 64
	maxFieldValue = 1024
	maxUnixMillis = maxUnix*1000 + 999
	droppedField  = "dropped-fields"
	auditLabel    = labelPrefix + "audit record"
)

// Encode returns the deterministic encoding. Texts are cleaned and cut to the
// limits first, and of more than 16 fields the last in order are dropped and
// counted, so that whatever an adversary sent can be recorded.
func (r *AuditRecord) Encode() []byte {
	c := *r
	c.Time = min(max(c.Time, 0), maxUnixMillis)
	c.Kind = CleanText(c.Kind, maxKind)
	c.Who = CleanText(c.Who, maxWho)
	c.Text = CleanText(c.Text, maxAuditText)
	c.Fields = cleanFields(r.Fields)
	return mustEncode(&c)
}

func cleanFields(in map[string]string) map[string]string {
	names := make([]string, 0, len(in))
	for name := range in {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make(map[string]string, min(len(in), maxFields))
	for i, name := range names {
		if i == maxFields-1 && len(names) > maxFields {
			out[droppedField] = fmt.Sprint(len(names) - i)
			break
		}
		out[CleanText(name, maxFieldName)] = CleanText(in[name], maxFieldValue)
	}
	return out
}

func (r *AuditRecord) validate() error {
	if r.Time < 0 || r.Time > maxUnixMillis {
		return invalid("audit record: time", "%d is not a time in Unix milliseconds", r.Time)
	}
	if len(r.Fields) > maxFields {
		return invalid("audit record: fields", "are %d, want at most %d", len(r.Fields), maxFields)
	}
	for name, value := range r.Fields {
		if err := validText("audit record: field name", name, maxFieldName); err != nil {
			return err
		}
		if err := validText("audit record: field", value, maxFieldValue); err != nil {
			return err
		}
	}
	if err := validText("audit record: kind", r.Kind, maxKind); err != nil {
		return err
	}
	if err := validText("audit record: who", r.Who, maxWho); err != nil {
		return err
	}
	return validText("audit record: text", r.Text, maxAuditText)
}

// HashRecord returns the chain value after rec, an encoded AuditRecord.
func HashRecord(prev [32]byte, rec []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(auditLabel))
	h.Write(prev[:])
	h.Write(rec)
	return [32]byte(h.Sum(nil))
}

// ChainError says where an audit chain breaks.
type ChainError struct {
	Seq    uint64 // of the record that should stand there
	Reason string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("bond: audit chain breaks at record %d: %s", e.Seq, e.Reason)
}

// VerifyChain decodes consecutive records, the first with sequence number from and
// chain value prev before it, and returns the chain value after the last. Compare it
// with the AuditHead of a receipt that has the same number of records. Errors are
// *ChainError.
func VerifyChain(records [][]byte, from uint64, prev [32]byte) (head [32]byte, out []AuditRecord, err error) {
	head = prev
	for i, raw := range records {
		seq := from + uint64(i)
		if seq < from {
			return prev, nil, &ChainError{Seq: from, Reason: "sequence numbers overflow"}
		}
		rec, err := decodeRecord(raw)
		switch {
		case err != nil:
			return prev, nil, &ChainError{Seq: seq, Reason: err.Error()}
		case rec.Seq != seq:
			return prev, nil, &ChainError{Seq: seq, Reason: fmt.Sprintf("record %d stands there", rec.Seq)}
		case rec.Prev != head:
			return prev, nil, &ChainError{Seq: seq, Reason: "it does not follow the record before it"}
		}
		head = HashRecord(head, raw)
		out = append(out, *rec)
	}
	return head, out, nil
}

func decodeRecord(raw []byte) (*AuditRecord, error) {
	if len(raw) > MaxRecord {
		return nil, tooLarge("audit record", len(raw), MaxRecord)
	}
	rec := new(AuditRecord)
	if err := decodeStrict(raw, rec); err != nil {
		return nil, err
	}
	if err := rec.validate(); err != nil {
		return nil, err
	}
	return rec, nil
}

// Verify checks that the records of an opened chunk continue the chain at prev, and
// that the chunk's own head is right.
func (c *AuditChunk) Verify(prev [32]byte) ([]AuditRecord, error) {
	head, records, err := VerifyChain(c.Records, c.From, prev)
	if err != nil {
		return nil, err
	}
	if head != c.Head {
		return nil, &ChainError{Seq: c.Next, Reason: "the head is not the one of these records"}
	}
	return records, nil
}
