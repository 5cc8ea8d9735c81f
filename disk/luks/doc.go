// Package luks reads and writes LUKS2 headers (on-disk format 1.1.4 of
// cryptsetup) for disks enciphered with aes-xts-plain64.
package luks
