package bond

import "slices"

// Version is the newest protocol version that this package speaks.
const Version uint16 = 1

// Supported lists all protocol versions that this package speaks, ascending. Do
// not change it.
var Supported = []uint16{1}

// maxVersions bounds the version lists in messages.
const maxVersions = 16

// ChooseVersion returns the highest version that a host offers and this package
// speaks, or a *VersionError. The offer comes through the management domain: it
// is proved right only by the confirmation (see Confirmation.Check).
func ChooseVersion(offered []uint16) (uint16, error) {
	if err := checkVersionList("offered versions", offered); err != nil {
		return 0, err
	}
	v, ok := highestCommon(offered, Supported)
	if !ok {
		return 0, &VersionError{Have: slices.Clone(offered), Supported: slices.Clone(Supported)}
	}
	return v, nil
}

// highestCommon returns the highest number that is in both lists.
func highestCommon(a, b []uint16) (best uint16, ok bool) {
	for _, v := range a {
		if slices.Contains(b, v) && (!ok || v > best) {
			best, ok = v, true
		}
	}
	return best, ok
}

// checkVersionList accepts 1 to maxVersions different versions, ascending, so that
// equal sets are equal lists.
func checkVersionList(what string, list []uint16) error {
	if len(list) == 0 || len(list) > maxVersions {
		return invalid(what, "has %d entries, want 1 to %d", len(list), maxVersions)
	}
	for i, v := range list {
		if v == 0 || (i > 0 && v <= list[i-1]) {
			return invalid(what, "must be ascending, different and not 0")
		}
	}
	return nil
}

// checkNegotiation is the hypervisor's side: offered is what the tenant saw,
// known what the tenant speaks, chosen what the tenant took, header what the
// envelope says, and supported what this hypervisor speaks.
func checkNegotiation(offered, known []uint16, chosen, header uint16, supported []uint16) error {
	if !slices.Equal(offered, supported) {
		return ErrDowngrade
	}
	best, ok := highestCommon(known, supported)
	if !ok || chosen != best || header != chosen {
		return ErrDowngrade
	}
	return nil
}
