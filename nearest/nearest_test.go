package nearest

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	known := []string{"stop", "cont", "query-status", "system_reset", "ctrl", "alt", "delete", "f1", "f10"}
	for name, want := range map[string]string{
		"stopp": "stop", "sotp": "stop", "STOP": "stop", "query_status": "query-status", "system-reset": "system_reset",
		"querystatus": "query-status", "ctlr": "ctrl", "delte": "delete", "f13": "f10",
		"stop": "", "": "", "screendump": "", "xyz": "",
		strings.Repeat("stop", 1000): "",
	} {
		if got := Name(name, known); got != want {
			t.Errorf("%.20q: %q, want %q", name, got, want)
		}
	}
}
