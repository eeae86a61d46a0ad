/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the ingress program tells the egress program of an event with several groups, and what the egress
 * program tells the drop counters. Kernel memory of one CPU; user space never looks at it.
 *
 * An event's copies are all alike when the kernel makes them. They carry a mark and the event's number
 * where the MACs belong, which each copy gets anew anyway: so no driver has to know about metadata, none
 * of it reaches the receiver, and no pointer into the frame is lost by making room for it. Only frames that
 * our ingress program redirected reach the egress program, and those have MACs that were written here. The
 * egress program finds the event by its number and gives each copy what the next of that interface gets.
 *
 * How many events can be on their way on a CPU: an interface takes its frames 16 at a time (the kernel's
 * DEV_MAP_BULK_SIZE), at the latest at the end of the receive cycle, so fewer than 16 for each interface
 * that events with several groups leave by. User space allows TEMPOS_MAX_FANOUT_EGRESS of those.
 */
#ifndef TEMPOS_COPIES_H
#define TEMPOS_COPIES_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define BULK 16
#define EVENTS 128
#define MARK bpf_cpu_to_be64(0x0174656d706f73e3ULL)
#define NO_COPY 0xffffffff
/* Of a copy's `ifindex`, and of a member's: the interface. */
#define BELOW_VLAN ((1U << TEMPOS_VLAN_SHIFT) - 1)

/* What one copy gets written, ready for the wire. */
struct copy {
	__be32 source;
	__be32 ip;
	__u8 macs[12];       /* destination, source */
	__be16 source_port;
	__be16 port;
	__u16 ip_check;
	__u16 udp_check;
	__be32 sequence;     /* where the event is stamped */
	__u32 ifindex;       /* as of a member; no interface any more once it has left */
	__u32 ticket;        /* its lower half, for a journal */
};

/* Who sent a datagram, as it lies in the packet before that is changed. */
struct sender {
	__be32 address;
	__be16 port;
	__u16 pad;
};

struct event {
	__u32 number;
	__u32 sequence_mask; /* all ones: it is stamped with a delivery sequence; 0: it is not */
	__u32 row;           /* in `copies` */
	__u16 check_mask;    /* the same of a full UDP checksum */
	__u16 count;
	__u16 next;          /* all copies before this one have left */
	__u16 made;          /* of a foreign topic: whether any group gets it */
	__u32 ticket_high;   /* the other half, of the first group */
	/* Of a foreign topic, for its groups one after the other: on the stack there is no room for it. */
	struct sender from;
	__u32 taking;        /* bits of the groups that take what comes from there */
	__u32 more_pad;
	struct copy copies[TEMPOS_MAX_GROUPS];
};

/* The last copies that passed the egress program: place in `copies` * MAX_GROUPS + group, or NO_COPY for other frames. */
struct sending {
	__u32 number;        /* of the next event */
	__u32 passed;        /* since an interface last took what it was given */
	__u32 refused;       /* by the egress program, since then */
	__u32 pad;
	__u32 log[BULK];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TEMPOS_NARROW * 2);
	__type(key, __u32);
	__type(value, struct tempos_copies);
} copies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sending);
} sending SEC(".maps");

_Static_assert(sizeof(struct copy) == 40, "addresses are copied by eight bytes");
_Static_assert(BULK * (TEMPOS_MAX_FANOUT_EGRESS + 1) <= EVENTS, "no event is overwritten that is on its way");
_Static_assert((TEMPOS_NARROW + TEMPOS_WIDE_IDS) * 2 * TEMPOS_MAX_GROUPS < NO_COPY, "every copy has a number");

#endif
