// Package build makes an owner's encrypted disk out of a base image that comes from
// somebody who is not trusted, and whose SHA-256 the owner knows.
//
// The base is read twice:
//
//	check   everything is hashed. The digest of what was read up to the end of each
//	        piece is kept. Nothing is written. Only a base whose digest is the
//	        owner's leads to the next phase.
//	write   everything is read again, a piece at a time. A piece is enciphered and
//	        written when the digest of everything up to its end is the one that was
//	        kept; the bytes that are enciphered are those that were hashed. The header
//	        comes last.
//
// Once would do to notice a wrong base, but not to be safe from one. Who gives the base
// has the image too. Had wrong bytes been enciphered before the end of the file told that
// they are wrong, they would be there as ciphertext under the owner's key, each at
// its place: material to be put into the disk that is made from the right base
// afterwards. So nothing is ever enciphered but what the owner's digest vouches
// for, whatever is given, in whatever order, however often it is interrupted.
//
// Work is done in steps. Between them all that is needed is in a State, which the
// caller keeps; a step that is lost is done again.
package build
