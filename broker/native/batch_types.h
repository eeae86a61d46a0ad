/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the batch helper share: the pool of datagrams, and the arrays that recvmmsg and
 * sendmmsg work on, all allocated once.
 */
#ifndef TEMPOS_BATCH_TYPES_H
#define TEMPOS_BATCH_TYPES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "meant.h"
#include "spread.h"

#define NO_SLOT UINT32_MAX
#define NO_TTL (-1)
#define CACHE_LINE 64
#define MAX_SEGMENTS 64 /* UDP_MAX_SEGMENTS of the kernels that have the fewest */
#define MAX_UDP_PAYLOAD 65507
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* <linux/udp.h>, for a C library that does not know it */
#endif

struct tempos_send_error {
	uint16_t topic;
	uint16_t group;
	uint8_t epoch;
	int32_t error;
	uint32_t count;
	uint32_t address;
	uint16_t port;
	uint16_t size;
};

/* The networks whose events a topic takes, in network byte order; none: every network's. */
struct sources {
	uint32_t count;
	uint32_t network[TEMPOS_MAX_SOURCES];
	uint32_t mask[TEMPOS_MAX_SOURCES];
	uint32_t refused;              /* the latest address that was refused */
};

struct slot {
	uint32_t next;
	uint32_t refs;
	uint32_t length;
	int ttl;                               /* what is left of it; NO_TTL: not told */
	uint64_t taken_ns;                     /* when it was received, by CLOCK_MONOTONIC; where that is measured */
	uint32_t probe;                        /* where in it a probe's marks are to be written; 0: it is none */
	struct sockaddr_in from;               /* who sent it; of foreign topics only */
};

/* Room for control messages, aligned as the kernel wants it. */
union tx_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + 2 * CMSG_SPACE(sizeof(int)) +
		   CMSG_SPACE(sizeof(uint16_t))];
};
union rx_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
};

/* What a class sends by from one listen address, or from any where the socket has them all. */
struct channel {
	int fd;
	struct in_addr address; /* 0: any */
};

/* What stands before the payload where we make it ourselves. */
struct own_headers {
	struct iphdr ip;
	struct udphdr udp;
};

/* One datagram on its way to one member. */
struct copy {
	uint32_t slot;
	uint32_t iovs;                         /* 2 if `header` stands in for the slot's, or `own` before it */
	union {
		struct tempos_event_header header;
		struct own_headers own;
	};
};

/* One or more copies for one member, in order: all of `segment` bytes, but the last may be shorter. */
struct message {
	struct sockaddr_in to;
	union tx_control control;
	struct in_addr from;                   /* the address it leaves from; 0: the socket's, or the kernel's choice */
	int fd;
	int tos;
	int ttl;                               /* the copies leave with it; NO_TTL: the socket's own */
	uint32_t first_copy;
	uint32_t copies;
	uint32_t bytes;
	uint16_t segment;
	uint16_t topic;
	uint8_t open;                          /* one more copy may join */
	uint8_t one_by_one;                    /* the kernel refused them together */
	uint8_t left_out;                      /* nothing is sent: its member cannot be reached, or is nobody */
	uint8_t fragments;                     /* what is too large for the way goes in fragments, not back */
	uint8_t raw_tos;                       /* and so is this byte, where `tos` leaves it to the socket */
	uint8_t raw;                           /* its headers are ours: the source is the sender's */
	uint8_t epoch;
	uint16_t group;
};

/* An endpoint, and the address of ours that it gets its events from; 0: whichever the kernel prefers. */
struct member {
	struct sockaddr_in to;
	struct in_addr source;
	uint8_t left_out;              /* the kernel does not find who is next on the way to it, or nobody is there */
};

/*
 * `slots`: of a group that picks by the source (`pick`), the place of the member that each is for; then `drawn` has how
 * many each got since somebody asked. `ranges`: of a group that takes what some senders send, those; `every`: its members
 * get one of so many; `keep`: source address and port stay the sender's.
 */
struct tempos_members {
	uint32_t count;
	uint32_t every;
	struct tempos_range *ranges;
	uint8_t keep;
	uint8_t pick;
	uint16_t *slots;
	uint32_t *drawn;
	struct member at[];
};

/*
 * What a class has ready to go. Each has its own, so that a best-effort message for which there is no room
 * in its socket stands in no strict one's way.
 */
struct outbox {
	struct channel channels[TEMPOS_MAX_LISTEN];
	uint32_t channel_count;
	int tos;                       /* written into each datagram; -1: the socket's own holds */
	uint8_t raw_tos;               /* written into those whose headers are ours */
	uint32_t first, end;           /* tx[first .. end) is staged */
	uint32_t copies_end, iovs_end;
	uint32_t staged;               /* copies in tx[first .. end) */
	struct mmsghdr *tx;            /* these have room for `capacity` copies, tx_iov for twice as many */
	struct iovec *tx_iov;
	struct message *messages;
	struct copy *copies;
};

/*
 * What a process has taken out of sockets, in memory that outlives it: `taken` by receives that are over and
 * in its account, and the messages of the one at hand. The kernel writes the length of each as it takes it
 * out, so not even a kill inside of that system call leaves one that nobody knows of. `gone`: copies that were
 * handed to the kernel, refused by it, or given up.
 */
#define NOT_TAKEN UINT32_MAX
struct tempos_receipts {
	uint64_t taken;
	uint64_t gone;
	struct mmsghdr at_hand[];
};

/*
 * What is known of each topic, by its id. All of it is 0 at first and then takes no memory: nothing is written
 * but of topics that there are, and of what is in the batch at hand.
 */
struct tempos_batch {
	uint8_t *framing;
	struct sources *sources;
	struct tempos_measured **measured; /* NULL: nothing is measured of a topic (batch_measure.h) */
	uint8_t timed;                 /* times, too */
	uint64_t now_ns, real_ns;      /* when the last system call was over that sent something, by two clocks */
	uint8_t clock[8];              /* names the clock of this machine in probes */
	uint32_t restricted;           /* topics that have sources; without any the sender is not asked for */
	uint16_t *run_of;              /* the forwardable run of a topic in the batch at hand, and 1; 0: none */
	uint32_t stride;

	uint8_t *bytes;
	struct slot *slots;
	uint32_t *free;
	uint32_t free_count;

	uint32_t batch;
	struct mmsghdr *own_rx;
	struct mmsghdr *rx;            /* own_rx, or those of the receipts */
	struct tempos_receipts *receipts;
	uint32_t at_hand;              /* messages that the last receive took; kept where there are receipts */
	struct iovec *rx_iov;
	struct sockaddr_in *rx_from;
	union rx_control *rx_control;
	uint32_t *rx_slot;             /* the slot that stands ready for message i, or NO_SLOT */
	uint32_t rx_used;              /* only messages before this one may be without a slot */
	uint32_t *run_tail;

	uint32_t capacity;
	uint8_t segmenting;            /* the kernel knows UDP_SEGMENT and has not refused it */
	int raw;                       /* the socket for datagrams with headers of ours; -1: there is none */
	struct outbox out[TEMPOS_QUALITIES];
	uint32_t *chain;               /* the slots of the run that is being staged */
	uint16_t *picked;              /* and whom each is for, where that is by its source */
};

static uint8_t *slot_bytes(struct tempos_batch *b, uint32_t slot)
{
	return b->bytes + (size_t)slot * b->stride;
}

/*
 * The topic that a datagram is of, as wire.topic_in has it: 0 where it has none, WIDE where its id is cut off or is a
 * narrow one in wide form.
 */
static uint16_t topic_in(const uint8_t *payload, uint32_t length)
{
	uint16_t id;

	if (!length)
		return 0;
	if (payload[0] != TEMPOS_WIDE)
		return payload[0];
	if (length < TEMPOS_WIDE_ID_LEN)
		return TEMPOS_WIDE;
	id = (uint16_t)(payload[1] << 8 | payload[2]);
	return id < TEMPOS_NARROW ? TEMPOS_WIDE : id;
}

static void put_slot(struct tempos_batch *b, uint32_t slot)
{
	if (--b->slots[slot].refs == 0)
		b->free[b->free_count++] = slot;
}

#endif
