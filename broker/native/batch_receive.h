/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving: one recvmmsg into free slots, each datagram classified, the batch grouped into runs. The
 * order of a topic is kept; that between topics is of no meaning.
 */
#ifndef TEMPOS_BATCH_RECEIVE_H
#define TEMPOS_BATCH_RECEIVE_H

#include "batch_measure.h"
#include "batch_probe.h"
#include "batch_receipts.h"
#include "batch_types.h"

/* Where in a run its number of datagrams and its first slot are; before them topic and reason. */
#define RUN_COUNT 24
#define RUN_SLOT 40

/*
 * Put free slots behind the messages that earlier receives used up; how many of the first `wanted` have one,
 * from the first on.
 */
static uint32_t arm(struct tempos_batch *b, uint32_t wanted)
{
	for (uint32_t i = 0; i < b->rx_used; i++) {
		if (b->rx_slot[i] == NO_SLOT) {
			if (!b->free_count)
				return i < wanted ? i : wanted;
			b->rx_slot[i] = b->free[--b->free_count];
			b->rx_iov[i].iov_base = slot_bytes(b, b->rx_slot[i]);
		}
		b->rx[i].msg_hdr.msg_controllen = sizeof(b->rx_control[i]);
		b->rx[i].msg_hdr.msg_name = b->restricted ? &b->rx_from[i] : NULL;
		b->rx[i].msg_hdr.msg_namelen = b->restricted ? sizeof(b->rx_from[i]) : 0;
	}
	b->rx_used = 0;
	return wanted < b->batch ? wanted : b->batch;
}

/* Whether the kernel is to say who sent the first `count` messages of the next receive. */
static void ask_senders(struct tempos_batch *b, uint32_t count, int ask)
{
	for (uint32_t i = 0; i < count; i++) {
		b->rx[i].msg_hdr.msg_name = ask ? &b->rx_from[i] : NULL;
		b->rx[i].msg_hdr.msg_namelen = ask ? sizeof(b->rx_from[i]) : 0;
	}
}

/* Whether `from` is not in the topic's networks; a sender that is not known is in none. */
static int is_foreign(struct sources *sources, const struct msghdr *msg)
{
	const struct sockaddr_in *from = msg->msg_name;
	uint32_t address = 0;
	uint32_t i;

	if (!sources->count)
		return 0;
	if (msg->msg_namelen >= sizeof(*from) && from->sin_family == AF_INET) {
		address = from->sin_addr.s_addr;
		for (i = 0; i < sources->count; i++)
			if ((address & sources->mask[i]) == sources->network[i])
				return 0;
	}
	sources->refused = address;
	return 1;
}

/* What the kernel tells of a datagram, where it was asked to: its TTL, and whether it was sent to all. */
static int told_of(struct msghdr *msg, int *for_all)
{
	struct in_pktinfo to;
	int ttl = NO_TTL;

	*for_all = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != IPPROTO_IP)
			continue;
		if (c->cmsg_type == IP_TTL && c->cmsg_len >= CMSG_LEN(sizeof(ttl))) {
			memcpy(&ttl, CMSG_DATA(c), sizeof(ttl));
		} else if (c->cmsg_type == IP_PKTINFO && c->cmsg_len >= CMSG_LEN(sizeof(to))) {
			memcpy(&to, CMSG_DATA(c), sizeof(to));
			*for_all = to.ipi_addr.s_addr != to.ipi_spec_dst.s_addr;
		}
	}
	return ttl;
}

static enum tempos_reason check(const uint8_t *payload, uint32_t length, uint8_t framing)
{
	if (!length || payload[0] != TEMPOS_WIDE)
		return tempos_is_keep_alive(payload, payload + length, length)
			       ? TEMPOS_KEEP_ALIVE
			       : tempos_check_payload(payload, payload + length, length, framing);
	if (length < TEMPOS_WIDE_ID_LEN)
		return TEMPOS_SHORT_HEADER;
	return tempos_check_wide(payload, payload + length, length, framing);
}

/* The run of this topic and reason in the batch at hand, begun if it is the first of its kind. */
static int find_run(struct tempos_batch *b, uint64_t *runs, int *run_count, uint16_t topic,
		    enum tempos_reason reason, uint32_t slot)
{
	uint64_t key = (uint64_t)reason << 16 | topic;
	int i = *run_count;

	if (reason == TEMPOS_FORWARDED) {
		if (b->run_of[topic])
			return b->run_of[topic] - 1;
		b->run_of[topic] = (uint16_t)(i + 1);
	} else {
		for (int k = 0; k < i; k++)
			if ((runs[k] & 0xffffff) == key)
				return k;
	}
	runs[i] = key | (uint64_t)slot << RUN_SLOT;
	b->run_tail[i] = slot;
	*run_count = i + 1;
	return i;
}

static int tempos_batch_receive(struct tempos_batch *b, int fd, uint16_t foreign, uint32_t limit, uint64_t *runs)
{
	uint32_t ready = arm(b, limit);
	int received, run_count = 0;
	uint64_t taken_ns;

	if (!ready)
		return -ENOBUFS;
	receipts_booked(b);
	if (foreign && !b->restricted)
		ask_senders(b, ready, 1);
	do
		received = recvmmsg(fd, b->rx, ready, MSG_DONTWAIT, NULL);
	while (received < 0 && errno == EINTR);
	if (foreign && !b->restricted)
		ask_senders(b, ready, 0);
	if (received < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	taken_ns = b->timed ? clock_ns(CLOCK_MONOTONIC) : 0;
	b->at_hand = (uint32_t)received;
	if ((uint32_t)received > b->rx_used)
		b->rx_used = (uint32_t)received;

	for (int i = 0; i < received; i++) {
		uint32_t at = b->rx_slot[i], length = b->rx[i].msg_len;
		uint8_t *payload = slot_bytes(b, at);
		struct slot *slot = &b->slots[at];
		uint16_t topic = foreign ? foreign : topic_in(payload, length);
		enum tempos_reason reason;
		int run, for_all, ttl = told_of(&b->rx[i].msg_hdr, &for_all);

		/* The other socket of the port has one of these as well: that one counts. */
		if (for_all)
			continue;
		if (b->rx[i].msg_hdr.msg_flags & MSG_TRUNC)
			reason = TEMPOS_CUT_SHORT;
		else if (foreign)
			reason = length ? TEMPOS_FORWARDED : TEMPOS_EMPTY;
		else
			reason = check(payload, length, b->framing[topic]);
		/* Whose events a topic takes says nothing of who may answer them. */
		if (reason != TEMPOS_REPLY && is_foreign(&b->sources[topic], &b->rx[i].msg_hdr))
			reason = TEMPOS_FOREIGN_SOURCE;
		if (reason == TEMPOS_FORWARDED && ttl != NO_TTL && ttl <= 1)
			reason = TEMPOS_TTL;
		run = find_run(b, runs, &run_count, topic, reason, at);
		runs[run] += 1 << RUN_COUNT;
		if (b->measured[topic] && reason != TEMPOS_REPLY)
			b->measured[topic]->arrived_bytes += length;
		/* What is refused is not read again: its slot simply stays where it is. */
		if (reason != TEMPOS_FORWARDED && reason != TEMPOS_REPLY) {
			b->free[b->free_count++] = at;
			b->rx_slot[i] = NO_SLOT;
			continue;
		}
		slot->refs = 1;
		slot->length = length;
		slot->taken_ns = taken_ns;
		slot->ttl = ttl;
		if (foreign)
			slot->from = b->rx_from[i];
		slot->probe = reason == TEMPOS_FORWARDED ? probe_taken(b, payload, length, b->framing[topic]) : 0;
		b->slots[b->run_tail[run]].next = at;
		slot->next = NO_SLOT;
		b->run_tail[run] = at;
		b->rx_slot[i] = NO_SLOT;
	}
	for (int k = 0; k < run_count; k++)
		b->run_of[runs[k] & 0xffff] = 0;
	return run_count;
}

#endif
