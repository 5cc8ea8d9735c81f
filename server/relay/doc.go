// Package relay passes the bytes of channels between tenants' WebSockets and the
// hypervisor's gate.
//
// A channel is sealed end to end between the tenant's client and the VM's keeper.
// To the relay it is two streams of bytes: it cannot read them, and what it drops,
// changes or joins together is noticed at the ends. What it decides is how much one
// tenant and all of them may use of the server. Both ends are hostile to it: their
// first messages are capped and decoded strictly, buffers are fixed, and an end
// that takes nothing for StallTimeout ends the channel.
package relay
