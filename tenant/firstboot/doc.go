// Package firstboot makes what a guest's cloud-init gets at its first boot: the
// four files of a NoCloud disk, which travel sealed in the registration.
//
//	user-data       the owner's file, byte for byte
//	meta-data       instance-id (the VM's id) and local-hostname
//	vendor-data     cloud-config with the ssh host keys that are made here, and the
//	                owner's authorized keys; cloud-init merges it below user-data.
//	                And a boothook that gives bash the size of the serial console
//	network-config  the owner's file, or DHCP on every NIC
//
// What is made here is JSON, which is YAML too and has one way to quote. The owner's
// files are checked as far as cloud-init would pass over them in silence, in a guest
// that nobody can log in to then. They are the owner's, and nothing here defends
// against them; their sizes are capped all the same, as somebody names the wrong
// file some day. The private host keys are in the result and nowhere else.
package firstboot
