/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot bytes of the slow path: receive, classify, stamp, address, send. No decision is made here:
 * Python decides once for a run of datagrams, these functions carry it out for each of them.
 *
 * A datagram lives in a slot of one pool from recvmmsg to sendmmsg and is never copied. Slots of a run
 * are chained through `next`; a slot is free again when its last reference is gone: the chain holds
 * one, and so does each staged message. The free slots are a stack, so that the warm ones are used first.
 *
 *   free --receive--> chain --stage(group 0..n-1)--> messages --flush--> free
 *                       \--release--> free
 *
 * Several groups send the same slot: each message of an `event` topic has a header of its own in front
 * of the shared body, but the last group's, which is stamped in the slot. `raw` is sent as it came.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "frame.h"

#define NO_SLOT UINT32_MAX
#define CACHE_LINE 64

struct tempos_send_error {
	uint8_t topic;
	uint8_t group;
	uint8_t epoch;
	int32_t error;
	uint32_t count;
};

struct slot {
	uint32_t next;
	uint32_t refs;
	uint32_t length;
	int fd;                 /* the socket it came in by, and goes out by */
	struct in_addr local;   /* the address it was sent to; 0: the socket is bound to it */
};

/* One in_pktinfo control message, aligned as the kernel wants it. */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

/* All of a staged message but its mmsghdr, which sendmmsg wants in an array of its own. */
struct message {
	struct iovec iov[2];
	struct sockaddr_in to;
	union control control;
	struct tempos_event_header header;
	uint32_t slot;
	int fd;
	uint8_t topic;
	uint8_t group;
	uint8_t epoch;
};

struct tempos_members {
	uint32_t count;
	struct sockaddr_in at[];
};

struct tempos_batch {
	uint8_t framing[TEMPOS_TOPICS];
	int16_t run_of[TEMPOS_TOPICS]; /* the forwardable run of a topic in the batch at hand, or -1 */
	uint32_t stride;

	uint8_t *bytes;
	struct slot *slots;
	uint32_t *free;
	uint32_t free_count;

	uint32_t batch;
	struct mmsghdr *rx;
	struct iovec *rx_iov;
	union control *rx_control;
	uint32_t *rx_slot;             /* the slot that stands ready for message i, or NO_SLOT */
	uint32_t *run_tail;

	uint32_t capacity;
	uint32_t first, end;           /* tx[first .. end) is staged */
	struct mmsghdr *tx;
	struct message *messages;
};

static uint8_t *slot_bytes(struct tempos_batch *b, uint32_t slot)
{
	return b->bytes + (size_t)slot * b->stride;
}

static void put_slot(struct tempos_batch *b, uint32_t slot)
{
	if (--b->slots[slot].refs == 0)
		b->free[b->free_count++] = slot;
}

static void prepare_messages(struct tempos_batch *b)
{
	for (uint32_t i = 0; i < b->capacity; i++) {
		struct msghdr *msg = &b->tx[i].msg_hdr;
		struct message *m = &b->messages[i];

		msg->msg_name = &m->to;
		msg->msg_namelen = sizeof(m->to);
		msg->msg_iov = m->iov;
		msg->msg_control = &m->control;
		m->control.header.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
		m->control.header.cmsg_level = IPPROTO_IP;
		m->control.header.cmsg_type = IP_PKTINFO;
	}
}

static void tempos_batch_free(struct tempos_batch *b)
{
	if (!b)
		return;
	free(b->bytes);
	free(b->slots);
	free(b->free);
	free(b->rx);
	free(b->rx_iov);
	free(b->rx_control);
	free(b->rx_slot);
	free(b->run_tail);
	free(b->tx);
	free(b->messages);
	free(b);
}

static struct tempos_batch *tempos_batch_new(uint32_t slots, uint32_t slot_bytes, uint32_t batch,
					     uint32_t messages)
{
	struct tempos_batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	/*
	 * An odd number of cache lines: with a power of two every header would fall into the same few
	 * sets of the cache.
	 */
	b->stride = ((slot_bytes + CACHE_LINE - 1) / CACHE_LINE | 1) * CACHE_LINE;
	b->batch = batch;
	b->capacity = messages;
	b->bytes = aligned_alloc(CACHE_LINE, (size_t)slots * b->stride);
	b->slots = calloc(slots, sizeof(*b->slots));
	b->free = calloc(slots, sizeof(*b->free));
	b->rx = calloc(batch, sizeof(*b->rx));
	b->rx_iov = calloc(batch, sizeof(*b->rx_iov));
	b->rx_control = calloc(batch, sizeof(*b->rx_control));
	b->rx_slot = calloc(batch, sizeof(*b->rx_slot));
	b->run_tail = calloc(batch, sizeof(*b->run_tail));
	b->tx = calloc(messages, sizeof(*b->tx));
	b->messages = calloc(messages, sizeof(*b->messages));
	if (!b->bytes || !b->slots || !b->free || !b->rx || !b->rx_iov || !b->rx_control ||
	    !b->rx_slot || !b->run_tail || !b->tx || !b->messages) {
		tempos_batch_free(b);
		return NULL;
	}
	memset(b->framing, TEMPOS_FRAMING_RAW, sizeof(b->framing));
	memset(b->run_of, 0xff, sizeof(b->run_of));
	for (uint32_t i = slots; i-- > 0;)
		b->free[b->free_count++] = i;
	for (uint32_t i = 0; i < batch; i++) {
		b->rx_slot[i] = NO_SLOT;
		b->rx_iov[i].iov_len = slot_bytes;
		b->rx[i].msg_hdr.msg_iov = &b->rx_iov[i];
		b->rx[i].msg_hdr.msg_iovlen = 1;
		b->rx[i].msg_hdr.msg_control = &b->rx_control[i];
	}
	prepare_messages(b);
	return b;
}

static void tempos_batch_framing(struct tempos_batch *b, uint8_t topic, uint8_t framing)
{
	b->framing[topic] = framing;
}

/* Put a free slot behind every message that has none; how many messages, from the first on, have one. */
static uint32_t arm(struct tempos_batch *b)
{
	uint32_t i;

	for (i = 0; i < b->batch; i++) {
		if (b->rx_slot[i] == NO_SLOT) {
			if (!b->free_count)
				break;
			b->rx_slot[i] = b->free[--b->free_count];
			b->rx_iov[i].iov_base = slot_bytes(b, b->rx_slot[i]);
		}
		b->rx[i].msg_hdr.msg_controllen = sizeof(b->rx_control[i]);
	}
	return i;
}

static struct in_addr local_address(struct msghdr *msg)
{
	struct in_addr none = { 0 };
	struct in_pktinfo info;
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			memcpy(&info, CMSG_DATA(c), sizeof(info));
			return info.ipi_spec_dst;
		}
	}
	return none;
}

/* The run of this topic and reason in the batch at hand, begun if it is the first of its kind. */
static int find_run(struct tempos_batch *b, uint64_t *runs, int *run_count, uint8_t topic,
		    enum tempos_reason reason, uint32_t slot)
{
	uint64_t key = (uint64_t)reason << 8 | topic;
	int i = *run_count;

	if (reason == TEMPOS_FORWARDED) {
		if (b->run_of[topic] >= 0)
			return b->run_of[topic];
		b->run_of[topic] = (int16_t)i;
	} else {
		for (int k = 0; k < i; k++)
			if ((runs[k] & 0xffff) == key)
				return k;
	}
	runs[i] = key | (uint64_t)slot << 32;
	b->run_tail[i] = slot;
	*run_count = i + 1;
	return i;
}

static int tempos_batch_receive(struct tempos_batch *b, int fd, uint64_t *runs)
{
	uint32_t ready = arm(b);
	int received, run_count = 0;

	if (!ready)
		return -ENOBUFS;
	do
		received = recvmmsg(fd, b->rx, ready, MSG_DONTWAIT, NULL);
	while (received < 0 && errno == EINTR);
	if (received < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;

	for (int i = 0; i < received; i++) {
		uint32_t at = b->rx_slot[i], length = b->rx[i].msg_len;
		const uint8_t *payload = slot_bytes(b, at);
		struct slot *slot = &b->slots[at];
		uint8_t topic = length ? payload[0] : 0;
		enum tempos_reason reason;
		int run;

		if (b->rx[i].msg_hdr.msg_flags & MSG_TRUNC)
			reason = TEMPOS_CUT_SHORT;
		else
			reason = tempos_check_payload(payload, payload + length, length, b->framing[topic]);
		run = find_run(b, runs, &run_count, topic, reason, at);
		runs[run] += 1 << 16;
		/* What is refused is not read again: its slot simply stays where it is. */
		if (reason != TEMPOS_FORWARDED) {
			b->free[b->free_count++] = at;
			b->rx_slot[i] = NO_SLOT;
			continue;
		}
		slot->refs = 1;
		slot->length = length;
		slot->fd = fd;
		slot->local = local_address(&b->rx[i].msg_hdr);
		b->slots[b->run_tail[run]].next = at;
		slot->next = NO_SLOT;
		b->run_tail[run] = at;
		b->rx_slot[i] = NO_SLOT;
	}
	for (int k = 0; k < run_count; k++)
		b->run_of[runs[k] & 0xff] = -1;
	return run_count;
}

static uint32_t tempos_batch_after(struct tempos_batch *b, uint32_t slot, uint32_t count)
{
	while (count--)
		slot = b->slots[slot].next;
	return slot;
}

static void tempos_batch_release(struct tempos_batch *b, uint32_t slot, uint32_t count)
{
	while (count--) {
		uint32_t next = b->slots[slot].next;

		put_slot(b, slot);
		slot = next;
	}
}

static uint32_t tempos_batch_free_slots(struct tempos_batch *b)
{
	return b->free_count;
}

static struct tempos_members *tempos_members_new(const uint32_t *addresses, const uint16_t *ports,
						 uint32_t count)
{
	struct tempos_members *members = calloc(1, sizeof(*members) + count * sizeof(members->at[0]));

	if (!members)
		return NULL;
	members->count = count;
	for (uint32_t i = 0; i < count; i++) {
		members->at[i].sin_family = AF_INET;
		members->at[i].sin_addr.s_addr = addresses[i];
		members->at[i].sin_port = ports[i];
	}
	return members;
}

static void tempos_members_free(struct tempos_members *members)
{
	free(members);
}

static int tempos_batch_stage(struct tempos_batch *b, uint32_t slot, uint32_t count,
			      const struct tempos_members *members, uint64_t first_ticket,
			      uint32_t epoch, uint8_t group, int last)
{
	uint64_t delivery = first_ticket / members->count;
	uint32_t member = first_ticket % members->count;

	if (count > b->capacity - b->end)
		return -1;
	while (count--) {
		struct message *m = &b->messages[b->end];
		struct msghdr *msg = &b->tx[b->end].msg_hdr;
		struct slot *s = &b->slots[slot];
		uint8_t *payload = slot_bytes(b, slot);

		b->end++;
		m->slot = slot;
		m->fd = s->fd;
		m->topic = payload[0];
		m->group = group;
		m->epoch = (uint8_t)epoch;
		m->to = members->at[member];
		m->iov[0].iov_base = payload;
		m->iov[0].iov_len = s->length;
		msg->msg_iovlen = 1;
		if (b->framing[m->topic] == TEMPOS_FRAMING_EVENT) {
			struct tempos_event_header *header = (struct tempos_event_header *)payload;

			if (!last) {
				header = memcpy(&m->header, payload, sizeof(m->header));
				m->iov[0].iov_base = header;
				m->iov[0].iov_len = sizeof(*header);
				m->iov[1].iov_base = payload + sizeof(*header);
				m->iov[1].iov_len = s->length - sizeof(*header);
				msg->msg_iovlen = 2;
			}
			header->epoch = m->epoch;
			header->delivery_sequence = htonl((uint32_t)delivery);
		}
		msg->msg_controllen = 0;
		if (s->local.s_addr) {
			struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(&m->control.header);

			info->ipi_spec_dst = s->local;
			msg->msg_controllen = sizeof(m->control);
		}
		if (!last)
			s->refs++;
		if (++member == members->count) {
			member = 0;
			delivery++;
		}
		slot = s->next;
	}
	return (int)(b->end - b->first);
}

static void note_error(struct tempos_send_error *errors, uint32_t *count, const struct message *m, int error)
{
	struct tempos_send_error *e = *count ? &errors[*count - 1] : NULL;

	if (!e || e->topic != m->topic || e->group != m->group || e->epoch != m->epoch || e->error != error) {
		e = &errors[(*count)++];
		*e = (struct tempos_send_error){
			.topic = m->topic, .group = m->group, .epoch = m->epoch, .error = error,
		};
	}
	e->count++;
}

static int tempos_batch_flush(struct tempos_batch *b, struct tempos_send_error *errors,
			      uint32_t *error_count)
{
	*error_count = 0;
	while (b->first < b->end) {
		int fd = b->messages[b->first].fd, sent;
		uint32_t stop = b->first + 1;

		while (stop < b->end && b->messages[stop].fd == fd)
			stop++;
		sent = sendmmsg(fd, &b->tx[b->first], stop - b->first, MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return fd;
			/* An error is always that of the first message: leave it out, go on behind it. */
			note_error(errors, error_count, &b->messages[b->first], errno);
			sent = 1;
		}
		while (sent--)
			put_slot(b, b->messages[b->first++].slot);
	}
	b->first = b->end = 0;
	return -1;
}
