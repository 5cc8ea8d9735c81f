package schema

import (
	"fmt"

	"github.com/uvbond/uvbond/nearest"
)

// didYouMean ends an error about an unknown name, or is empty when none of the
// known ones is near.
func didYouMean(name string, known []string) string {
	if best := nearest.Name(name, known); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}
