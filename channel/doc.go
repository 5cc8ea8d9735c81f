// Package channel is the end-to-end byte stream between a tenant and a VM's
// hypervisor: what a console, a screen or a forwarded port travels in. It is pure like
// package bond: it works on a stream that it is given, and has no files, no network
// and no state of its own. Whoever carries that stream is trusted with nothing.
//
// # Handshake
//
// Noise_NNpsk0_25519_AESGCM_SHA256 (Noise revision 34), by github.com/flynn/noise. The
// tenant is the initiator. The pre-shared key is the bond's key for channels, so only the
// two ends of the bond can complete it; the prologue says which channel this is:
//
//	"uvbond v1 channel"  17 bytes
//	version               2 bytes  of the protocol, big endian
//	vm                   16 bytes
//	descriptor           32 bytes  of the instance
//	nonce                32 bytes  of the ticket that opened the channel
//	port                  2 bytes  big endian; 0 for kinds without one
//	kind                  1 byte length, then the name
//
// Both messages have an empty payload and are 48 bytes long. A responder that cannot
// open the first answers with 48 zero bytes, which do not open either: so both ends find
// out the same thing, and at once.
//
// # Records
//
// Afterwards each direction is a sequence of records, counted from 0:
//
//	counter   8 bytes   big endian
//	header   19 bytes   sealed: kind (1), length of what follows (2, big endian); tag (16)
//	body      n bytes   sealed: n-16 bytes of payload; tag (16); none where the length is 0
//
// The two sealed parts are Noise transport messages with nonces 2*counter and
// 2*counter+1. The header is sealed by itself so that a changed length is found
// when the header is there, and not after up to 64 KiB that may never come. Before each record whose
// counter is a positive multiple of 2^20 the key of that direction is replaced (Noise REKEY), which keeps the
// blocks under one AES-GCM key below 2^33.
//
// Kinds: 1 data; 2 ping, sent after 15 s in which nothing else was; 3 end, no more data from this side;
// 4 close, with the reason as payload. An end of which no sealed part came whole within 45 s, or which did
// not take a record within 45 s, is dead.
//
// # What a wrong record was
//
// A header that does not open is tried under the counter that it claims: one that opens there and is
// larger than expected was reordered (or one before it is missing), a smaller one is a replay; one that opens
// under this side's own sending key was reflected; else it was tampered with. A stream that ends without
// a close record was truncated.
package channel
