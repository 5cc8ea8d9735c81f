// Package forward carries many connections to one port of a guest in one channel of
// kind "forward". Both ends are here; like package channel it works on a stream that
// it is given. It trusts the other end with nothing but its own connections: a tenant
// whose client misbehaves harms its own channel, and a guest that does harms its own
// connections.
//
// # Protocol
//
// The channel's bytes are yamux (version 0) with the tenant as its client. The first
// stream is for resets, below. Each further one is one connection: the keeper dials
// the port that the ticket named, and answers with one byte, 0 for connected. After
// another byte comes the reason, at most 200 bytes of text, and the end of the stream.
// Then both directions carry the connection's bytes; the end of a direction (FIN) is
// the end of that direction of the connection, and the other goes on.
//
// A connection that was reset, or whose reader is gone, is not one that ended: yamux
// has no call for that, so the end that finds it out sends the stream's id, 4 bytes
// big endian, on the stream for resets. The other end then resets its connection.
// The id 0 is the tenant's wish to end, and the keeper's answer, given once, that all
// connections have got what was sent to them.
//
// yamux's pings are not used, and end the channel.
package forward
