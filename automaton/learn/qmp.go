package learn

import (
	"regexp"
	"strings"
)

// refreshEvent is the event after which toolstacks ask for the VM's devices
// anew: libvirt sends qom-list and query-block from a thread of its own, between
// whatever else it sends.
const refreshEvent = "RESET"

// onlyAsks tells whether a QMP command changes nothing, by QEMU's own naming.
func onlyAsks(name string) bool {
	return strings.HasPrefix(name, "query-") || name == "qom-list" || name == "qom-get" ||
		name == "qom-list-properties" || name == "qom-list-types" || name == "device-list-properties"
}

// progress names, for commands that ask how far a job is or what state the VM
// is in, the commands that set off what they ask for. How often they come
// depends on how long that takes.
var progress = map[string][]string{
	"query-migrate":    {"migrate", "migrate-incoming", "migrate-continue", "migrate_cancel"},
	"query-dump":       {"dump-guest-memory"},
	"query-block-jobs": {"block-commit", "block-stream", "blockdev-mirror", "blockdev-backup", "drive-mirror", "drive-backup"},
	"query-status": {"stop", "cont", "system_reset", "system_powerdown", "system_wakeup", "migrate", "migrate-incoming",
		"dump-guest-memory", "uvbond-launch", "quit"},
	"query-dirty-rate":          {"calc-dirty-rate"},
	"query-background-snapshot": {"migrate"},
}

// asked names the question that a toolstack may ask after a job began, also
// where no recording shows it because the job was short.
var asked = map[string]string{
	"migrate":           "query-migrate",
	"dump-guest-memory": "query-dump",
	"block-commit":      "query-block-jobs",
	"block-stream":      "query-block-jobs",
	"blockdev-mirror":   "query-block-jobs",
}

// descriptor is how a toolstack names one of its open files: the number is
// whatever was free.
var descriptor = regexp.MustCompile(`^fd:[0-9]+$`)
