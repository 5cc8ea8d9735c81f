// Package keeper is the process that holds one VM's volume keys: it serves the
// VM's disks to QEMU by NBD or vhost-user on unix sockets, keeps what the VM
// prints on its console, and lets the viewers of package hub read it and type. It also
// makes and serves the disk of a guest's first boot.  It is the far end of the owner's
// channels, whose connections the daemon hands over, and reports what becomes of
// them.  One keeper runs beside each QEMU; both outlive the daemon, which finds them
// again.  Main is the keeper; Process is the daemon's handle on one.
//
// The keeper trusts the daemon, and nobody else.  From QEMU it takes NBD requests,
// vhost-user messages with the guest's rings, and console bytes, which packages nbd
// and vhostuser and the ring bound; from the storage it takes any bytes; from a channel only what
// opens under a key of the owner's, which may still be hostile to the keeper.  The daemon in turn treats what a keeper answers as hostile
// input: lengths are capped, messages decoded strictly.
//
// # Who owns what
//
// When the daemon runs as root ("keeper" and "qemu" are the VM's two uids):
//
//	Options.Dir             root 0700, made by the caller: nobody else gets in
//	  keeper.sock           root 0600, control socket, peers must have the daemon's uid
//	Options.SocketDir       root:qemu 0710: QEMU passes through, lists and changes nothing
//	  <disk>.nbd or .vhost  root:qemu 0660: QEMU connects, cannot change its mode
//	  console.sock          root:qemu 0660
//	process                 keeper, own mount, IPC and UTS namespaces, a network namespace
//	                        that it shares with the VM's QEMU alone, no environment, no
//	                        new privileges, not dumpable, no core file, Landlock rules
//	                        that allow no path (where the kernel has it)
//
// Without root everything belongs to the one user there is, with modes 0700 and 0600.
//
// # Descriptors at the start
//
//	3 control listener · 4 console ring file · 5 configuration socket · 6 console listener ·
//	then for every disk of the configuration, in its order: listener, ciphertext ·
//	the listener of the seed, if there is one
//
// The configuration with the keys is one message on descriptor 5; the answer
// there is empty when the keeper serves, or says what is wrong.  The daemon keeps
// the listeners open too, so that QEMU's connections queue while a keeper that
// died is being replaced.
package keeper
