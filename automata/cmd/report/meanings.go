package main

// meanings says of every pair that overlaps what that means for an owner.
var meanings = map[string]string{
	"destroy, dominfo":                               "Both send nothing. A ticket for either lets the provider do nothing at the gate, and a receipt of either proves nothing; ending QEMU by a signal is out of an automaton's reach.",
	"domstats, domblkinfo":                           "The same questions about disks. Nothing is changed: allow both or neither.",
	"domstats, dommemstat":                           "The same questions about memory. Nothing is changed: allow both or neither.",
	"domstats, iothreadinfo":                         "The same question about threads. Nothing is changed: allow both or neither.",
	"snapshot-delete-internal, qemu-monitor-command": "The second allows any command of the human monitor, the first one of them. A ticket for the second covers the first, and all else: never sign it.",
	"start-paused, start":                            "The same but for the end: `cont` tells them apart. A ticket for start lets the provider stop half way and leave the VM paused; one for start-paused never lets it run.",
	"restore-paused, restore":                        "As start-paused and start.",
	"suspend, dump":                                  "Both begin with `stop`. A ticket for dump lets the provider pause the VM and do no more, which is harmless; one for suspend lets no memory out.",
	"suspend, dump-memory-only":                      "As suspend and dump.",
	"suspend, dump-crash":                            "As suspend and dump.",
	"suspend, dump-reset":                            "As suspend and dump.",
	"suspend, snapshot-external":                     "As suspend and dump.",
	"shutdown, reboot":                               "Both send `system_powerdown`; only `system_reset` and `cont` after it make it a reboot. A ticket for reboot lets the provider turn it into a shutdown by sending no more. To QEMU `shutdown`, `shutdown --mode acpi` and the first half of `reboot` are the same.",
	"save, dump-live":                                "A save of a VM that is paused already is the beginning of dump-live: the same memory leaves by the same pipe. Whoever may save a paused VM can read as much as whoever may dump it; the difference is whether the VM runs on.",
	"dump-crash, dump-memory-only":                   "The same dump; afterwards the VM is ended, or runs on with `cont`. A ticket for the second lets the provider end the VM instead, which a provider can do anyway.",
	"dump-crash, dump-reset":                         "The same dump; afterwards the VM is ended, or starts over.",
}
