package state

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/uvbond/uvbond/bond"
)

// Limits of what is kept of a bond's policy and delegations.
const (
	maxUseNames = 256  // automata and delegations' automata with counted uses
	maxUseTimes = 1000 // uses of one
	maxRevoked  = 1024
)

// grantsWire is what a bond's policy and delegations were used for.
type grantsWire struct {
	Uses    []useWire   `cbor:"1,keyasint"`
	Pause   PauseRecord `cbor:"2,keyasint"`
	Revoked [][32]byte  `cbor:"3,keyasint"` // ids of delegations, for ever
	Before  int64       `cbor:"4,keyasint"` // delegations issued until then are revoked; Unix seconds
}

// useWire counts one automaton.
type useWire struct {
	Name  string  `cbor:"1,keyasint"` // UseName
	Times []int64 `cbor:"2,keyasint"` // Unix seconds, ascending
	Until int64   `cbor:"3,keyasint"` // when it may be forgotten; 0: never
}

// PauseRecord says that operators paused an instance for a limited time.
type PauseRecord struct {
	Instance uint64 `cbor:"1,keyasint"` // 0: none
	Resume   int64  `cbor:"2,keyasint"` // Unix seconds: when the hypervisor resumes it
	Name     string `cbor:"3,keyasint"` // of the automaton
}

// UseName is the name under which uses of an automaton are counted: those of the
// policy for operators, with a zero delegation, or those of a delegation.
func UseName(delegation [32]byte, automaton string) string {
	if delegation == [32]byte{} {
		return automaton
	}
	return hex.EncodeToString(delegation[:]) + " " + automaton
}

func (t *Tx) grants(vm bond.VMID) (w grantsWire, err error) {
	if err := t.known(vm); err != nil {
		return w, err
	}
	_, err = t.get(bucketGrants, vm[:], &w)
	return w, err
}

// Use adds the transaction's time to those at which name was used, after allow
// has looked at them: it returns those that still count, or an error, which is
// returned. until is when the uses may be forgotten, 0 never.
func (t *Tx) Use(vm bond.VMID, name string, until int64, allow func(times []int64, now int64) ([]int64, error), entries ...Entry) error {
	w, err := t.grants(vm)
	if err != nil {
		return err
	}
	now := t.now.Unix()
	w.Uses = slices.DeleteFunc(w.Uses, func(u useWire) bool { return u.Until != 0 && u.Until < now })
	n := slices.IndexFunc(w.Uses, func(u useWire) bool { return u.Name == name })
	if n < 0 {
		if len(w.Uses) >= maxUseNames {
			return fmt.Errorf("state: uses of more than %d automata are counted", maxUseNames)
		}
		n = len(w.Uses)
		w.Uses = append(w.Uses, useWire{Name: name})
	}
	u := &w.Uses[n]
	if u.Times, err = allow(u.Times, now); err != nil {
		return err
	}
	u.Times, u.Until = append(u.Times, now), until
	u.Times = u.Times[max(0, len(u.Times)-maxUseTimes):]
	if err := t.put(bucketGrants, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

// Pause returns what SetPause stored.
func (t *Tx) Pause(vm bond.VMID) (PauseRecord, error) {
	w, err := t.grants(vm)
	return w.Pause, err
}

// SetPause remembers that operators paused an instance, or, with the zero
// record, that they did not.
func (t *Tx) SetPause(vm bond.VMID, p PauseRecord, entries ...Entry) error {
	w, err := t.grants(vm)
	if err != nil {
		return err
	}
	w.Pause = p
	if err := t.put(bucketGrants, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

// Revoke takes a delegation back, for ever.
func (t *Tx) Revoke(vm bond.VMID, id [32]byte, entries ...Entry) error {
	w, err := t.grants(vm)
	if err != nil {
		return err
	}
	if !slices.Contains(w.Revoked, id) {
		if len(w.Revoked) >= maxRevoked {
			return fmt.Errorf("state: %d delegations of this VM are revoked, the most that are remembered; revoke all", maxRevoked)
		}
		w.Revoked = append(w.Revoked, id)
	}
	if err := t.put(bucketGrants, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

// RevokeAll takes back all delegations that were issued until now, by the host's
// clock and by the owner's, which until (Unix seconds) is from.
func (t *Tx) RevokeAll(vm bond.VMID, until int64, entries ...Entry) error {
	w, err := t.grants(vm)
	if err != nil {
		return err
	}
	w.Before, w.Revoked = max(w.Before, t.now.Unix(), until), nil
	if err := t.put(bucketGrants, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

// Delegated says ErrRevoked of a delegation that was taken back.
func (t *Tx) Delegated(vm bond.VMID, id [32]byte, issued int64) error {
	w, err := t.grants(vm)
	switch {
	case err != nil:
		return err
	case issued <= w.Before || slices.Contains(w.Revoked, id):
		return ErrRevoked
	}
	return nil
}
