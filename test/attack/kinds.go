package main

// kinds are all kinds of attack, in the order in which they are tried.
var kinds = []*kind{
	{name: "sequences", what: "every walk of every shipped automaton, cut, extended, reordered, repeated, and with each argument changed", run: trySequences},
	{name: "redirect", what: "every ticket and every other sealed message, for every VM but its own", run: tryRedirect},
	{name: "tickets", what: "tickets changed byte by byte, mistimed, replayed, raced, of old instances, with odd automata", run: tryTickets},
	{name: "processes", what: "a second process: a child, one that the connection is passed to, after exec, after reuse of the process number", run: tryProcesses},
	{name: "interleaving", what: "two sessions at once, step by step in every order, on one VM and on two", run: tryInterleaving},
	{name: "channels", what: "channels bent on their way, joined to other VMs, of another kind or port, pipelined, by the dozen", run: tryChannels},
	{name: "policies", what: "operators without a ticket: every hypercall under every policy, more often than allowed", run: tryPolicies},
	{name: "delegates", what: "a delegate who wants more, for longer, elsewhere; and thieves of a delegation", run: tryDelegates},
	{name: "descriptors", what: "open files of the wrong kind, mode, number and content, and where none belong", run: tryDescriptors},
	{name: "bases", what: "other base images than the owner named, before and after they were checked; other files; without a ticket, again", run: tryBases},
	{name: "registrations", what: "one blob from many processes at once, changed, odd, again, after deletion", run: tryRegistrations},
	{name: "slow", what: "half-open connections, silent sessions, lines that do not end, are cut or no requests, strangers", run: trySlow},
	{name: "floods", what: "refusals, connections, hypercalls, unread answers by the thousand", run: tryFloods},
	{name: "reach", what: "every file, socket and process of the hypervisor domain, past the gate", run: tryReach},
	{name: "tenants", what: "the operator between a tenant's client and the server: every row of the bond's attacks", run: tryTenants},
	{name: "state", what: "the hypervisor's state edited, cut, swapped, restored from an old copy while the daemon is down", run: tryState},
	{name: "clock", what: "the host's clock set back after tickets, delegations and limits are over, also while the daemon is down", world: worldOptions{clock: true}, run: tryClock},
	{name: "schema", what: "every command of QEMU's schema and of the gate, on a real QEMU, with and without a ticket", world: worldOptions{real: true}, run: trySchema},
}
