// Package vhostfront is a small front end of vhost-user-blk, the part that QEMU
// and a guest play: it shares memory with a back end, sets virtqueues up in it
// and sends requests. It works with any back end.
//
// Tests drive disk/vhostuser with it: as a disk (Disk), as a load that checks what
// it reads (Run), and as an attacker (Hostile), for which every step can be done
// by hand (Conn, Queue). It trusts nobody and is trusted by nobody; in the programs
// of UVBond it has no part.
package vhostfront
