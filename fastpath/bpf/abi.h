/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one source of every constant and struct that C and Python share.
 *
 * Read by:  the BPF programs (fastpath/bpf), the native helpers of broker, fastpath and bench
 *           (through cffi, at build time), and `python -m tempos_fastpath.abigen`, which writes
 *           clients/tempos/_abi.py from it for code that has no compiler.
 * Rules:    what stands between the two ABI markers must parse with cffi: integer #defines, enums,
 *           structs of natural alignment with explicit padding. Assertions stand after them.
 *           A comment directly after an enumerator is its one-line description in Python and docs.
 */
#ifndef TEMPOS_ABI_H
#define TEMPOS_ABI_H

/* ABI-BEGIN */

#define TEMPOS_DATA_PORT 9998
#define TEMPOS_CONTROL_PORT 9997
#define TEMPOS_API_PORT 9996

#define TEMPOS_WIRE_VERSION 1
#define TEMPOS_EVENT_HEADER_LEN 24
#define TEMPOS_BATCH_LENGTH_LEN 2

#define TEMPOS_FLAG_BATCH 1
#define TEMPOS_FLAG_DUP 2
#define TEMPOS_FLAG_TRACE 4
#define TEMPOS_FLAG_ENVELOPE 8      /* an envelope stands before the body; never with BATCH */

#define TEMPOS_ENVELOPE_VERSION 1
#define TEMPOS_ENVELOPE_LEN 32
#define TEMPOS_KIND_REQUEST 1       /* goes to the members; who gets it may answer */
#define TEMPOS_KIND_REPLY 2         /* goes back to who asked */
#define TEMPOS_KIND_ERROR 3         /* so does this: a reply that says why there is none */
#define TEMPOS_ERROR_OF_REPLIER 0   /* the body of the error is the replier's */
#define TEMPOS_ERROR_NO_MEMBER 1    /* the broker's: the topic has no member */
#define TEMPOS_ERROR_TOO_BIG 2      /* the broker's: the reply is larger than the way from it carries */

#define TEMPOS_PROBE_VERSION_1 1
#define TEMPOS_PROBE_LEN 56
#define TEMPOS_PROBE_MARKS_LEN 32   /* what of it a broker writes: in clear, also where bodies are encrypted */
#define TEMPOS_PROBE_SLOW 1         /* the slow path has had it; the fast path leaves a probe as it is */

#define TEMPOS_TOPIC_MIN 1
#define TEMPOS_TOPIC_MAX 65534
#define TEMPOS_NARROW 256            /* ids below are the first byte of their datagrams, and their own row */
#define TEMPOS_WIDE 255              /* as the first byte: the id follows in two bytes, network byte order */
#define TEMPOS_WIDE_ID_LEN 3         /* that byte and the id */
#define TEMPOS_WIDE_HEADER_LEN 28    /* of an event datagram with a wide id; all that is stamped lies as ever */
#define TEMPOS_WIDE_FLAGS_AT 24      /* where version and flags are then; behind them three bytes of 0 */
#define TEMPOS_IDS 65536             /* as many as two bytes can say */
#define TEMPOS_WIDE_IDS 65279        /* topics with a wide id, at most: 256 to TOPIC_MAX */
#define TEMPOS_PRIORITIES 8

/* As the first byte: no topic. What follows says what it is that a client and a broker tell each other beside events. */
#define TEMPOS_SERVICE 0
#define TEMPOS_SERVICE_PROOF 1       /* from the broker: a proof to be repeated */
#define TEMPOS_SERVICE_KEEP_ALIVE 2  /* from a member, and nothing behind it: opens the way for what it is sent */
#define TEMPOS_SERVICE_SENT 3        /* from the broker: how much it has sent a member in an epoch */
#define TEMPOS_SERVICE_REPLAYED 4    /* from the broker: a raw event out of the journal */
#define TEMPOS_SERVICE_AGAIN 5       /* from a publisher, to the control port: an event that was asked for again */
#define TEMPOS_SERVICE_LACKING 6     /* from the control port: what a publisher is asked for again */
#define TEMPOS_SERVICE_WAITING 7     /* from the broker: something is to be handed out again */
#define TEMPOS_SERVICE_HANDED 8      /* from the broker: several events that are handed out again */
#define TEMPOS_REPLAYED 1            /* in the reserved byte of an event: it is out of the journal */
#define TEMPOS_REDELIVERED 2         /* the same: another member of the group was sent it, and may have processed it */
#define TEMPOS_KEEP_ALIVE_LEN 2

#define TEMPOS_MAX_GROUPS 16        /* of one topic, that the kernel carries */
#define TEMPOS_GROUPS_PER_TOPIC 64  /* numbers of an epoch of a topic: tickets, and counters behind them */
#define TEMPOS_MAX_MEMBERS 512
#define TEMPOS_SMALL_MEMBERS 8      /* a wide topic with no more of them has a small route */
/*
 * Of a topic whose members are picked by the source: slots of each table, groups that have one, and members in all,
 * whose counters stand behind those of the groups. The tables lie where members from SPREAD_AT on would.
 */
#define TEMPOS_SPREAD_SLOTS 1024
#define TEMPOS_SPREAD_GROUPS 4
#define TEMPOS_SPREAD_MEMBERS 48
#define TEMPOS_SPREAD_AT 256
/*
 * Of a topic whose groups do not all get everything: what they get lies where members from SIEVE_AT on would, before
 * those tables. As many ranges of addresses as nine steps tell apart.
 */
#define TEMPOS_SIEVE_AT 124
#define TEMPOS_RANGES 512
#define TEMPOS_MAX_LISTEN 8
#define TEMPOS_MAX_EGRESS 64
#define TEMPOS_MAX_SOURCES 8
#define TEMPOS_MAX_MACS 8            /* of one interface, whose frames this machine takes there */
#define TEMPOS_MAX_SUSPECTS 64       /* addresses that as a source are for the kernel to judge */
#define TEMPOS_NO_HOST 1
#define TEMPOS_MAX_VLANS 16          /* of one interface, whose tagged frames its native program takes */
#define TEMPOS_VLAN_SHIFT 20         /* from here on the bits of a member's `ifindex` are the id of a VLAN */
#define TEMPOS_ROUTE_LIMITED 1       /* the topic has a rate */
#define TEMPOS_ROUTE_TAGGED 2        /* some member is in a VLAN whose tag a program puts in front */
#define TEMPOS_MAX_CHECKED 8192      /* sources whose way back the kernel was asked for */
#define TEMPOS_MAX_SENDERS 4096      /* behind a port of a bridge, of which it is known when the bridge last heard */
#define TEMPOS_BRIDGE_HEARS_MS 5000  /* of each of them so often */
#define TEMPOS_MAX_FANOUTS 4096
#define TEMPOS_HEARD_FRAMES 0        /* of the map `heard`: tagged frames that were heard of */
#define TEMPOS_HEARD_SETTLED 1       /* and how many of them user space has dealt with */
#define TEMPOS_MAX_FANOUT_EGRESS 7   /* interfaces that broadcast events leave by */

#define TEMPOS_TRIAL_TAKEN 0         /* of the map `outcome`: frames that an interface took */
#define TEMPOS_TRIAL_REFUSED 1       /* frames that it did not take */
#define TEMPOS_TRIAL_ERROR 2         /* and why: an errno, or 0 */

/*
 * Histograms of time in ns: buckets of one up to 2^STEP_BITS, then 2^STEP_BITS of equal width for each power of
 * two. So a bucket is at most an eighth as wide as the times in it are long; there is none from BEYOND on.
 */
#define TEMPOS_LATENCY_STEP_BITS 3
#define TEMPOS_LATENCY_BUCKETS 256
#define TEMPOS_LATENCY_BEYOND 17179869184 /* 2^34: 17 s */

/*
 * Journals (journal.h). Memory of one is cells: the first is its head, then each slot has so many, of which the last
 * holds tickets.
 */
#define TEMPOS_JOURNAL_CELL 128
#define TEMPOS_JOURNAL_TICKETS 32    /* groups that have a ticket each, as many as a slot holds; more have the last together */
#define TEMPOS_JOURNAL_BYTES 1472    /* of payload that a slot holds where a topic does not say: what 1,500 carry */
#define TEMPOS_JOURNAL_MOST_BYTES 9000
#define TEMPOS_JOURNAL_MOST_EVENTS 1048576
#define TEMPOS_JOURNAL_GUARDS 4096   /* behind all slots: events that publishers sent again last, 8 bytes each */

/* Limits count time in 1/1024 ns: at a hundred datagrams a microsecond a whole one is too coarse. */
#define TEMPOS_LIMIT_SHIFT 10

/* How the payload of a topic is laid out; chosen per topic, never guessed from the packet. */
enum tempos_framing {
	TEMPOS_FRAMING_RAW = 0,   /* the id, then anything */
	TEMPOS_FRAMING_EVENT = 1, /* the header, then the body */
	TEMPOS_FRAMING_FOREIGN = 2, /* anything: the port that it is sent to says which topic it is of */
};

/* Which member of a group gets a datagram; of foreign topics only anything but by turns. */
enum tempos_pick {
	TEMPOS_PICK_TURN = 0,        /* one after the other */
	TEMPOS_PICK_SOURCE = 1,      /* all that comes from one address goes to one member */
	TEMPOS_PICK_SOURCE_PORT = 2, /* the same from one address and port */
};

/* The class of a topic; also the place of its socket among those that share the data port. */
enum tempos_quality {
	TEMPOS_BQ = 0,              /* best effort: also what is no topic at all */
	TEMPOS_SQ = 1,              /* strict */
	TEMPOS_QUALITIES            /* how many there are; keep last */
};

/* What happens to the datagrams of a topic that come faster than its rate. */
enum tempos_overflow {
	TEMPOS_OVERFLOW_DROP = 0,   /* refused, on both paths */
	TEMPOS_OVERFLOW_PASS = 1,   /* by the slow path, which has queues */
};

/* How the kernel carries a topic: who makes the copies where it has several groups. */
enum tempos_way {
	TEMPOS_WAY_ONE = 0,       /* one group, no copy: the XDP program redirects the frame itself */
	TEMPOS_WAY_BROADCAST = 1, /* XDP redirects into a devmap with one slot for each copy */
	TEMPOS_WAY_CLONE = 2,     /* XDP hands the packet on, the tc program clones it */
};

/* How an XDP program learns of a VLAN tag that was taken off a frame before it runs (tag.h). */
enum tempos_tags {
	TEMPOS_TAGS_IN_FRAME = 0, /* no VLAN tag is taken off a frame before the program sees it */
	TEMPOS_TAGS_NOTED = 1,    /* generic mode: a tracing program notes VLAN tags */
	TEMPOS_TAGS_READ = 2,     /* native mode on veth: VLAN tags stand in the socket buffer, which is in reach */
	TEMPOS_TAGS_HEARD = 3,    /* native mode: not told of VLAN tags; once a frame with one was heard of, all pass */
};

/*
 * Why a datagram left a data path the way it did. Every exit of either path is counted under one
 * of these. The fast path never refuses what the slow path would take: all its reasons but
 * `forwarded`, `no_egress`, `over_rate`, `keep_alive` and `repeated` hand the packet to the kernel's stack.
 */
enum tempos_reason {
	TEMPOS_FORWARDED = 0,       /* handed to one member of every group */
	TEMPOS_NOT_IPV4,            /* the frame carries no IPv4 */
	TEMPOS_VLAN,                /* the frame has, or had, a VLAN tag that is the kernel's to see to */
	TEMPOS_TRUNCATED,           /* the frame ends inside a header */
	TEMPOS_NOT_UNICAST,         /* the frame is addressed to a multicast or broadcast MAC */
	TEMPOS_IP_OPTIONS,          /* the IPv4 header has options */
	TEMPOS_FRAGMENT,            /* the packet is an IPv4 fragment */
	TEMPOS_NOT_UDP,             /* the packet carries no UDP */
	TEMPOS_OTHER_ADDRESS,       /* the destination is not an address the broker listens on */
	TEMPOS_OTHER_PORT,          /* the destination is not the data port, nor any topic's */
	TEMPOS_BAD_LENGTH,          /* frame, IPv4 and UDP lengths contradict each other */
	TEMPOS_BAD_IP_CHECKSUM,     /* the IPv4 header checksum is wrong */
	TEMPOS_TTL,                 /* the TTL is used up */
	TEMPOS_NO_ROUTE,            /* the fast path holds no route for the topic */
	TEMPOS_TOO_BIG,             /* larger than the smallest MTU on the way to the members */
	TEMPOS_AMBIGUOUS_CHECKSUM,  /* the UDP checksum could be a full or a partial one */
	TEMPOS_EMPTY,               /* the datagram has no payload, so no topic */
	TEMPOS_SHORT_HEADER,        /* a datagram shorter than its header */
	TEMPOS_BAD_VERSION,         /* an event datagram of an unknown wire version */
	TEMPOS_RESERVED_BITS,       /* an event datagram with reserved bits set */
	TEMPOS_NO_EGRESS,           /* the fast path could not redirect: the event is lost */
	TEMPOS_RESERVED_TOPIC,      /* an id that no topic can have: 0, 255 or 65535, or a narrow one in wide form */
	TEMPOS_UNKNOWN_TOPIC,       /* no topic with this id is configured */
	TEMPOS_NO_MEMBER,           /* the topic has no member at all */
	TEMPOS_QUEUE_FULL,          /* the slow path's queue of this class was full */
	TEMPOS_CUT_SHORT,           /* larger than the slow path's receive buffer */
	TEMPOS_SEND_ERROR,          /* the kernel refused to send to a member: lost to that group */
	TEMPOS_SOCKET_OVERRUN,      /* the kernel's socket buffer was full before the broker could read */
	TEMPOS_BURST,               /* several datagrams in one buffer (GSO, GRO): cut up only further on */
	TEMPOS_FOREIGN_SOURCE,      /* the source is not in the topic's networks */
	TEMPOS_BROKER_GONE,         /* user space is gone and the policy says pass */
	TEMPOS_OVER_RATE,           /* faster than the topic's rate, which says drop */
	TEMPOS_OVER_RATE_PASSED,    /* faster than the topic's rate, which says pass: left to the slow path */
	TEMPOS_WORKER_LOST,         /* taken by the process for strict events, which died before sending it */
	TEMPOS_BY_CLONE,            /* handed on to the tc program, which makes the copies for the groups */
	TEMPOS_BAD_ENVELOPE,        /* an envelope that is cut, around a batch, or of an unknown version or kind */
	TEMPOS_REPLY,               /* a reply to a request: the slow path sends it on to who asked */
	TEMPOS_BAD_RETURN,          /* a reply whose return address is not of this broker's making, or too old */
	TEMPOS_REPLY_UNSENT,        /* a reply that the kernel refused to send on */
	TEMPOS_OTHER_MAC,           /* the frame is addressed to a MAC that is not this interface's */
	TEMPOS_MARTIAN_SOURCE,      /* a source that the kernel may refuse: no host's, or this machine's own */
	TEMPOS_UNKNOWN_WAY_BACK,    /* the kernel has not said yet that it takes the source from this interface */
	TEMPOS_KEEP_ALIVE,          /* a member's keep-alive: a firewall or NAT lets through what answers it */
	TEMPOS_FOR_BRIDGE,          /* one of a sender now and then: a bridge forgets whom it does not hear */
	TEMPOS_REPEATED,            /* an event that its publisher has sent again meanwhile, which came first */
	TEMPOS_REASONS              /* how many there are; keep last */
};

/*
 * The header of an `event` datagram, as on the wire: network byte order. A wide one has WIDE where the topic stands,
 * its id in the two bytes behind, and version and flags at WIDE_FLAGS_AT.
 */
struct tempos_event_header {
	__u8 topic;
	__u8 version_flags;         /* version in the high 4 bits, flags in the low 4 */
	__u8 reserved;
	__u8 epoch;                 /* stamped by the broker */
	__be32 publisher;
	__be32 sequence;
	__be32 delivery_sequence;   /* stamped by the broker */
	__be64 sent_ns;
};

/*
 * What stands between the header and the body where the flag ENVELOPE is set: network byte order. `port` to
 * `seal` are the return address, which a broker makes and only it reads. A reply repeats the header and the
 * envelope of its request.
 */
struct tempos_envelope {
	__u8 version_kind;          /* version in the high 4 bits, kind in the low 4 */
	__u8 code;                  /* of an error: TEMPOS_ERROR_*; else 0 */
	__be16 port;                /* who asked: UDP port and address */
	__be32 ip;
	__be32 via;                 /* the broker's address that the asker knows; 0: any */
	__be32 until;               /* seconds since its machine started up to which the broker takes replies */
	__be16 data_port;           /* where replies go, at the broker that the request came from */
	__u8 seal[8];               /* of the five fields before, with a key that only the broker has */
	__u8 token[6];              /* random: whoever has not seen the request cannot answer it */
};

/*
 * The body of a probe, which has the flags TRACE and ENVELOPE, and of the report that answers it: network byte order.
 * Behind it, `group_len` bytes of the group's name, and whatever makes both as long. A clock is named by the first 8
 * bytes of its machine's boot id; 0: not known.
 */
struct tempos_probe {
	__u8 version;
	__u8 path;                  /* TEMPOS_PROBE_SLOW, or 0 */
	__u8 reserved[6];
	__u8 broker_clock[8];       /* written by the slow path, as are the two wall clock times */
	__be64 taken_ns;
	__be64 left_ns;             /* when its copies were addressed */
	__u8 clock[8];              /* from here on the member's */
	__be64 received_ns;
	__be32 ip;                  /* where it receives, as far as it knows that */
	__be16 port;
	__u8 spare;
	__u8 group_len;
};

/*
 * One member as the fast path needs it. Addresses and MACs lie as in the headers, so that they are copied
 * together. The sums are folded one's complement sums of 16-bit words in memory order: what the rewrite adds
 * to a checksum that does not depend on the packet; so a `source` that is the sender's is 0 in them, too.
 */
struct tempos_member {
	__be32 source;              /* the address of ours that its events leave from; 0: the sender's own stays */
	__be32 ip;
	__u8 dst_mac[6];
	__u8 src_mac[6];
	__be16 port;                /* broadcast: 0 for one that is left out */
	/*
	 * One group: slot in the `egress` devmap. Broadcast: what picking this member adds to the route's
	 * `fanout`; so the picks of all groups together give the devmap with the right slots.
	 */
	__u16 egress;
	__u16 ip_sum;               /* the words of source and ip */
	__u16 udp_sum;              /* the words of source and ip, and port */
	__u32 ifindex;              /* the interface it leaves by; from VLAN_SHIFT on the VLAN it is in there, or 0 */
};

/* One group: members[first .. first + count) of its route. */
struct tempos_group {
	__u16 first;
	__u16 count;
	__u16 slots;                /* where its table begins among those of the route */
	__u8 pick;                  /* enum tempos_pick; by turns there is no table */
	__u8 pad;
};

/* Addresses from `start`, in host order, up to the next range: bits of the groups that take what they send. */
struct tempos_range {
	__u32 start;
	__u32 groups;
};

/* What members of one group get. */
struct tempos_less {
	__u32 every;                /* one in so many */
	__u32 taken;                /* which of the topic's numbers counts what the group takes; 0: that is all */
};

/* What members of the groups of a topic get, where those do not all get everything. */
struct tempos_sieve {
	struct tempos_less of[TEMPOS_MAX_GROUPS];
	struct tempos_range ranges[TEMPOS_RANGES];
};

/* IPv4 addresses a topic takes events from: those whose bits under the mask are the network's. */
struct tempos_network {
	__be32 network;
	__be32 mask;
};

/* The forwarding state of one topic for one epoch; never changed after it was swapped in. */
struct tempos_route {
	__u32 epoch;
	__u32 ticket_base;          /* of group 0; group g draws from tickets[ticket_base + g] */
	__u16 mtu;                  /* the smallest IPv4 MTU towards any member */
	__u8 framing;               /* enum tempos_framing */
	__u8 group_count;
	__u32 fanout;               /* broadcast: first key of the topic's devmaps in `fanouts` */
	/* What these four are is asked at once (quick.h). */
	__u8 way;                   /* enum tempos_way */
	__u8 source_count;          /* 0: from anywhere */
	__u8 marks;                 /* TEMPOS_ROUTE_LIMITED, TEMPOS_ROUTE_TAGGED */
	__u8 journal;               /* events are written into the topic's journal */
	__be16 ip_start;            /* of what leaves: version 4, five words, and the DSCP of the topic's class */
	__u16 topic;
	__u32 less;                 /* bits of the groups that do not get everything; what they get is in the sieve */
	__u32 by_sender;            /* bits of those of them that take what some senders send */
	struct tempos_group groups[TEMPOS_MAX_GROUPS];
	struct tempos_network sources[TEMPOS_MAX_SOURCES];
	struct tempos_member members[TEMPOS_MAX_MEMBERS]; /* of a small route SMALL_MEMBERS are there */
};

/* The row of each wide id; 0: there is no such topic. */
struct tempos_rows {
	__u16 of[TEMPOS_IDS];
};

/* The id of the foreign topic that takes what is sent to a port; 0: none does. */
struct tempos_ports {
	__u16 topic[65536];
};

/*
 * One ticket counter; slot = (row * 2 + epoch % 2) * GROUPS_PER_TOPIC + group. Those of one topic and epoch lie
 * together, and share their cache lines with no other's.
 */
struct tempos_ticket {
	__u64 next;
};

/* How fast datagrams of a topic are taken; how that works is in limit.h. Times in 1/1024 ns. */
struct tempos_limit {
	__u64 interval;             /* between two datagrams, rounded up; 0: no limit */
	__u64 tolerance;            /* (burst - 1) * interval: how far ahead of its time one may come */
};

/*
 * What holds of a topic on both paths, whatever its routes, and its token bucket: what a limited datagram
 * needs is one cache line.
 */
struct tempos_topic {
	__u32 quality;              /* enum tempos_quality */
	__u32 overflow;             /* enum tempos_overflow */
	struct tempos_limit limit;
	__u64 due;                  /* when the next one would come at the rate: CLOCK_MONOTONIC, 1/1024 ns */
	__u64 pad[4];
};

/*
 * Datagrams by reason, of one topic; row 0 counts what was passed before a topic was read, row WIDE what has a wide id
 * that no topic has. And bytes of UDP payload: of what was forwarded, beside the count that goes with them, and of what
 * was dropped for good.
 */
struct tempos_counters {
	__u64 bytes;
	__u64 count[TEMPOS_REASONS];
	__u64 dropped_bytes;
};

/*
 * Copies made in the kernel for one epoch of a topic with several groups, per CPU; place = row * 2 +
 * epoch % 2. What was lost of a group is events - sent[group], once none is on its way any more.
 */
struct tempos_copies {
	__u64 sent[TEMPOS_MAX_GROUPS]; /* that their interface took, or that were not for the group's members */
	__u64 events;                  /* of each of which every group was to get a copy */
};

/*
 * The head of a journal. What changes is by the lowest bit of an epoch: which one that is, and the position of the
 * event with its first ticket in group 0.
 */
struct tempos_journal {
	__u32 slots;                /* a power of two */
	__u32 cells;                /* of each slot */
	__u32 bytes;                /* of payload that a slot holds at most */
	__u32 pad;
	__u64 first[2];
	__u64 epoch[2];
	__u64 identity;             /* random: positions are those of one journal */
	__u64 guarded;              /* whether any of the guards is set */
	__u64 more_pad[8];
};

/* What stands in front of the payload in a slot. */
struct tempos_journal_slot {
	__u64 word;                 /* (position + 1) << 2 | who writes: 0 nobody any more, 1 the kernel, 2 a process */
	__u64 ticket;               /* of group 0 */
	__u64 at_ns;                /* CLOCK_MONOTONIC_COARSE */
	__u32 epoch;
	__u16 length;               /* of the payload; held but for its header where that is more than `bytes` of the head */
	__u8 groups;
	__u8 pad;
};

/* User space's sign of life. */
struct tempos_pulse {
	__u64 stamp_ns;             /* CLOCK_MONOTONIC */
	__u64 tai_offset_ns;        /* how far CLOCK_TAI is ahead of CLOCK_REALTIME */
	__u64 pad[6];
};

/* How often what took how long. */
struct tempos_histogram {
	__u64 bucket[TEMPOS_LATENCY_BUCKETS];
	__u64 longest;              /* ns, of those in the buckets */
	__u64 beyond;               /* longer than any bucket reaches: no clock says that in earnest */
	__u64 ahead;                /* began after it ended: the clocks disagree */
};

/* Of the events of one topic that the kernel forwarded, per CPU; latency.h says from when to when. */
struct tempos_latency {
	struct tempos_histogram program;
	struct tempos_histogram since_sent;
};

/* Frames that were lost behind the program's redirect, by where they should have gone and why. */
struct tempos_drop {
	__u32 ifindex;
	__u32 error;                /* errno; 0: the device took fewer than it was given */
};

/* A source, and the interface that its packets come in by, as the kernel's stack sees it. */
struct tempos_source {
	__u32 ifindex;
	__be32 address;
};

/* What the kernel says of one; the program asks, and takes what is TAKEN. */
enum tempos_verdict {
	TEMPOS_ASKED = 0,
	TEMPOS_TAKEN = 1,           /* its packets are delivered */
	TEMPOS_NOT_TAKEN = 2,       /* they are dropped: by their reverse path, or for what address it is */
};

/* A VLAN whose tagged frames are taken, as what comes in by its device. */
struct tempos_vlan {
	__u32 id;
	__u32 asks;                 /* as in the settings, of that device */
};

/* What is fixed when the program is loaded, for one interface. */
struct tempos_settings {
	__u64 gone_after_ns;        /* pass everything when the pulse is older; 0: never */
	__u64 macs[TEMPOS_MAX_MACS]; /* as a frame to it begins, and two bytes of 0 */
	__be16 port;
	__u8 generic;               /* 1: runs on skbs, where a partial checksum must stay partial */
	__u8 listen_count;
	__u8 tags;                  /* enum tempos_tags */
	__u8 mac_count;
	__u16 skb_at;               /* TAGS_READ: from what a program is given to the pointer to the socket buffer */
	__u32 asks;                 /* sources are taken as the kernel says of this interface; 0: it need not be asked */
	__u32 suspect_count;
	__u32 learns;               /* of a port of a bridge its interface index: the bridge is to hear of senders; else 0 */
	__u32 vlan_count;
	struct tempos_vlan vlans[TEMPOS_MAX_VLANS];
	__be32 listen[TEMPOS_MAX_LISTEN];
	__be32 suspects[TEMPOS_MAX_SUSPECTS];
	/*
	 * By the first byte of a source, and by its last: bits of the suspects that begin and end so. Those of one that
	 * both have in common it may be; NO_HOST: it begins as no host's does.
	 */
	__u8 first[256];
	__u8 last[256];
};

/* ABI-END */

#ifndef TEMPOS_ABI_NO_ASSERTS
_Static_assert(sizeof(struct tempos_event_header) == TEMPOS_EVENT_HEADER_LEN, "event header");
_Static_assert(sizeof(struct tempos_envelope) == TEMPOS_ENVELOPE_LEN, "envelope");
_Static_assert(sizeof(struct tempos_probe) == TEMPOS_PROBE_LEN, "probe");
_Static_assert(sizeof(struct tempos_member) == 32, "two members a cache line");
_Static_assert(sizeof(struct tempos_ticket) * TEMPOS_GROUPS_PER_TOPIC % 64 == 0, "cache lines are one topic's");
_Static_assert(sizeof(struct tempos_topic) == 64, "topic fills a cache line");
_Static_assert(sizeof(struct tempos_journal) == TEMPOS_JOURNAL_CELL, "the head of a journal is a cell");
_Static_assert(sizeof(struct tempos_journal_slot) == 32 &&
		       TEMPOS_JOURNAL_TICKETS * sizeof(__u32) == TEMPOS_JOURNAL_CELL, "the tickets are a cell");
_Static_assert(sizeof(struct tempos_pulse) == 64, "pulse fills a cache line");
_Static_assert(TEMPOS_LATENCY_BEYOND >> (TEMPOS_LATENCY_BUCKETS >> TEMPOS_LATENCY_STEP_BITS) ==
		       1 << (TEMPOS_LATENCY_STEP_BITS - 1), "the buckets end where times are beyond");
_Static_assert((TEMPOS_MAX_MEMBERS & (TEMPOS_MAX_MEMBERS - 1)) == 0, "power of two: masks an index");
_Static_assert((TEMPOS_MAX_MEMBERS - TEMPOS_SPREAD_AT) * sizeof(struct tempos_member) >=
		       TEMPOS_SPREAD_GROUPS * TEMPOS_SPREAD_SLOTS * sizeof(__u16), "the tables have room");
_Static_assert(TEMPOS_MAX_GROUPS + TEMPOS_SPREAD_MEMBERS <= TEMPOS_GROUPS_PER_TOPIC, "each member has a counter");
_Static_assert(TEMPOS_SIEVE_AT * sizeof(struct tempos_member) + sizeof(struct tempos_sieve) <=
		       TEMPOS_SPREAD_AT * sizeof(struct tempos_member), "the sieve ends before the tables");
_Static_assert((TEMPOS_RANGES & (TEMPOS_RANGES - 1)) == 0, "power of two: masks an index");
_Static_assert((TEMPOS_SMALL_MEMBERS & (TEMPOS_SMALL_MEMBERS - 1)) == 0, "power of two: masks an index");
#endif

#endif
