/*
 * The core of UVBond's protocol; README.md beside this file explains it.
 *
 * Owner A is honest and owns VM 0, under key KA. The operator is every wire and
 * is the second tenant as well: he owns VM 1, under KM, which he knows. He
 * keeps everything that was ever sealed and gives it to whom he likes, as often
 * as he likes, or never. So the knows... arrays only grow, and hold what he
 * cannot make himself; whatever is under KM he makes at will.
 *
 * Each -DNO_... takes one check away. REACH negates a goal, to show that it can
 * be reached.
 */
#ifndef TICKETS
#define TICKETS 4            /* tickets that A seals; the index is the nonce */
#endif
#define INSTANCES 3

#define NOBODY 0
#define KA 1
#define KM 2

#define BOOT 1               /* kinds of tickets */
#define COMMAND 2
#define CHANNEL 3

#define DONE 1
#define REFUSED 2

#ifdef NO_TICKET_KEY
#define TICKET_KEY(k, v) true
#else
#define TICKET_KEY(k, v) ((k) == holder[v])
#endif
#ifdef NO_BOND_KEY
#define TENANT_KEY(k) true
#else
#define TENANT_KEY(k) ((k) == KA)
#endif
#ifdef NO_CHANNEL_KEY
#define CHANNEL_KEY(k) true
#else
#define CHANNEL_KEY(k) ((k) == KA)
#endif

#ifdef NO_CONFIRMATION
#define CONFIRMED true
#else
#define CONFIRMED (knowsConfirmation || TENANT_KEY(KM))
#endif
#ifdef NO_DESCRIPTOR
#define MATCHES(n) true      /* the gate does not compare */
#elif defined(NO_INSTANCE)
#define MATCHES(n) (under[n] > 0) /* every instance has the same descriptor */
#else
#define MATCHES(n) (under[n] == instance)
#endif
#ifdef NO_BOOT_NONCE
#define OF_BOOT(i) true
#else
#define OF_BOOT(i) (bootOf[i] == lastboot + 1)
#endif

/* The hypervisor. */
byte holder[2];              /* key of the VM's bond */
bool live;                   /* VM 0 has an instance */
byte instance;               /* its number */
bool burnt[TICKETS];         /* nonces used, by VM 0 */

/* Owner A. */
bool registered, bonded;
byte sealed;                 /* tickets so far */
byte kind[TICKETS];
byte under[TICKETS];         /* instance whose descriptor the ticket carries */
byte mine;                   /* instance whose descriptor A holds; 0: none */
byte lastboot = TICKETS;     /* nonce of the last boot ticket */
bool waiting;                /* for an answer to the last ticket */

/* What the operator has under KA. */
bool knowsConfirmation;
bool knowsDone[TICKETS], knowsRefused[TICKETS], knowsChannel[TICKETS];
byte bootOf[INSTANCES + 1];  /* nonce + 1 in the sealed descriptor; 0: none sealed */

/* What really happened; nobody reads these but the assertions. */
byte ran[TICKETS];           /* times that VM 0 followed the ticket */
byte ranOn[TICKETS];         /* instance it last ran on */
bool refusedFor[TICKETS];    /* A believes that it never runs */
byte goals;

/* The gate: a ticket of A's, read as a ticket of kind as, is presented for VM v. */
inline present(n, v, as) {
	if
	:: !TICKET_KEY(KA, v) -> skip                     /* redirected: no receipt */
	:: else ->
		assert(v == 0);                               /* P2 */
		if
#ifndef NO_NONCE
		:: burnt[n] -> skip                           /* replayed: no receipt */
#endif
		:: else ->
			burnt[n] = true;
			if
			:: as == BOOT && live -> knowsRefused[n] = true
			:: as == BOOT && !live && instance < INSTANCES ->
				assert(kind[n] == BOOT);              /* P2 */
				instance++;
				live = true;
				bootOf[instance] = n + 1;
				follow(n)
			:: as != BOOT && !live -> knowsRefused[n] = true
			:: as != BOOT && live && !MATCHES(n) -> knowsRefused[n] = true
			:: as != BOOT && live && MATCHES(n) ->
				assert(under[n] == instance);         /* P4 */
				follow(n)
			:: as == BOOT && !live && instance == INSTANCES -> skip
			fi
		fi
	fi
}

inline follow(n) {
	assert(ran[n] == 0 && !refusedFor[n]);            /* P3 */
	ran[n]++;
	ranOn[n] = instance;
	knowsDone[n] = true;
	if
	:: kind[n] == CHANNEL -> knowsChannel[n] = true
	:: else
	fi
}

/* A accepts what opened as a receipt for her last ticket. */
inline believe(verdict) {
	assert(holder[0] == KA);                          /* P5 */
	if
	:: verdict == DONE ->
		assert(ran[sealed - 1] == 1);                 /* P5 */
		assert(kind[sealed - 1] == BOOT || ranOn[sealed - 1] == under[sealed - 1]);
		goals = goals | 1;
		if
		:: kind[sealed - 1] == COMMAND && under[sealed - 1] == 2 -> goals = goals | 4
		:: else
		fi
	:: else ->
		assert(ran[sealed - 1] == 0);                 /* P5 */
		refusedFor[sealed - 1] = true;
		goals = goals | 8
	fi;
	waiting = false
}

inline trust(k, n) {                                  /* the far end of a channel */
	assert(k == KA && ran[n] == 1);                   /* P6 */
	assert(n == sealed - 1 && ranOn[n] == under[sealed - 1]);
	goals = goals | 2;
	waiting = false
}

init {
	byte n, i;
	holder[1] = KM;
	do
	/* A registers VM 0. The VM's id is in the clear from here on. */
	:: atomic { !registered -> registered = true }

	/* The operator registers, with A's message or one of his own, once per id. */
#ifdef NO_SINGLE_REGISTRATION
	:: atomic { registered -> holder[0] = KA; knowsConfirmation = true; live = false; instance = 0;
		n = 0; do :: n < TICKETS -> burnt[n] = false; n++ :: else -> break od; n = 0 }
#else
	:: atomic { registered && holder[0] == NOBODY -> holder[0] = KA; knowsConfirmation = true }
#endif
	:: atomic { registered && holder[0] == NOBODY -> holder[0] = KM }

	/* A believes in the bond. */
	:: atomic { registered && !bonded && CONFIRMED -> bonded = true;
		assert(holder[0] == KA)                       /* P1 */ }

	/* A seals a ticket. She may have given up waiting for the last one. */
	:: atomic { bonded && sealed < TICKETS -> kind[sealed] = BOOT; lastboot = sealed; sealed++; waiting = true }
	:: atomic { bonded && sealed < TICKETS && mine > 0 -> kind[sealed] = COMMAND; under[sealed] = mine; sealed++; waiting = true }
	:: atomic { bonded && sealed < TICKETS && mine > 0 -> kind[sealed] = CHANNEL; under[sealed] = mine; sealed++; waiting = true }

	/* The operator presents any ticket of A's for either VM. */
	:: atomic { sealed > 0 -> select(n : 0 .. TICKETS - 1);
		if
		:: n < sealed -> present(n, 0, kind[n])
		:: n < sealed -> present(n, 1, kind[n])
#ifdef NO_PURPOSE
		:: n < sealed -> present(n, 0, BOOT)
#endif
		:: n >= sealed
		fi; n = 0 }
	/* ... and one of his own for VM 0. */
	:: atomic { live && TICKET_KEY(KM, 0) -> assert(holder[0] == KM)   /* P2 */ }

	/* VM 0 stops: its guest ends, or the operator sees to it. */
	:: atomic { live -> live = false }

	/* The operator hands A a receipt. */
	:: atomic { waiting -> select(n : 0 .. TICKETS - 1);
		if
#ifndef NO_RECEIPT_NONCE
		:: n == sealed - 1 && knowsDone[n] -> believe(DONE)
		:: n == sealed - 1 && knowsRefused[n] -> believe(REFUSED)
#else
		:: knowsDone[n] -> believe(DONE)
		:: knowsRefused[n] -> believe(REFUSED)
#endif
#ifdef NO_PURPOSE
		:: n == sealed - 1 -> believe(DONE)           /* her own ticket, sent back */
#endif
		:: TENANT_KEY(KM) -> believe(DONE)            /* his own */
		:: else
		fi; n = 0 }

	/* The operator hands A a descriptor. */
	:: atomic { lastboot < TICKETS -> select(i : 1 .. INSTANCES);
		if
		:: bootOf[i] > 0 && OF_BOOT(i) -> mine = i;
			assert(bootOf[i] == lastboot + 1)         /* P7 */
		:: else
		fi; i = 0 }

	/* The operator is the wire of a channel, or its far end. */
	:: atomic { waiting && kind[sealed - 1] == CHANNEL -> select(n : 0 .. TICKETS - 1);
		if
#ifndef NO_PROLOGUE
		:: knowsChannel[n] && n == sealed - 1 -> trust(KA, n)
#else
		:: knowsChannel[n] -> trust(KA, n)
#endif
		:: CHANNEL_KEY(KM) -> trust(KM, n)
		:: else
		fi; n = 0 }

#ifdef REACH
	:: atomic { (goals & REACH) == REACH -> assert(false) }
#endif
	:: break
	od
}
