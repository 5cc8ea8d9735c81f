package api

import (
	"encoding/base64"
	"errors"
	"strings"
)

// parseDigest reads the SHA-256 from a Content-Digest field (RFC 9530): a
// dictionary of byte sequences, of which the others are passed over. An empty
// field gives nil.
func parseDigest(field string) (*[32]byte, error) {
	if field == "" {
		return nil, nil
	}
	var found *[32]byte
	for member := range strings.SplitSeq(field, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(member), "=")
		if !ok || len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
			return nil, errors.New("Content-Digest: write sha-256=:<base64>: as RFC 9530 has it")
		}
		if name != "sha-256" {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(value[1 : len(value)-1])
		if err != nil || len(sum) != 32 || found != nil {
			return nil, errors.New("Content-Digest: sha-256 is not one base64 value of 32 bytes")
		}
		found = (*[32]byte)(sum)
	}
	return found, nil
}
