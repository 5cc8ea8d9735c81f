// Package nocloud makes the disk from which cloud-init reads a guest's first
// boot: a FAT file system with the label CIDATA, in memory, with up to four files
// in its root (cloud-init's NoCloud data source).
//
//	sector 0     boot sector; started from, it gives way to the next device (INT 18h)
//	sector 1     FAT, two copies of two sectors
//	sector 5     root directory, one sector
//	sector 6     data, one sector a cluster, the files one behind the other
//	sector 512   the end
//
// FAT12 is what a file system of this size is, by its number of clusters (Microsoft's
// FAT specification 1.03, section 3.5). Names are long names (section 7) with a short
// alias. Equal files give an equal image: there is no time and no random number in it,
// and its size is always the same, so that the size tells nothing of the content.
//
// The package trusts its caller. It is pure: no files, no clock, one allocation,
// which the caller wipes. It is our own code because all that is needed is one flat
// folder that is written once; a FAT or ISO 9660 library would bring a reader of such
// file systems, file access and block devices into the trusted program. What it makes is
// held against fsck.vfat, blkid and mtools in the tests.
package nocloud
