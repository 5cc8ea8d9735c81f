package cli

import (
	"bytes"
	"testing"
)

// TestBuildNothing: a disk that another command made meanwhile is no failure.
func TestBuildNothing(t *testing.T) {
	_, o := bonded(t)
	var out bytes.Buffer
	a := &app{out: &out, err: &out}
	if err := a.runBuild(t.Context(), o, "web1"); err != nil || out.String() != "web1 has no disk that is to be made\n" {
		t.Fatal(out.String(), err)
	}
}
