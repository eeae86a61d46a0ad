/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program writes into a topic's journal (journal.h), before it changes the packet: as it came in.
 *
 * Who includes it says what a program's context is (CONTEXT), how bytes are copied out of it (LOAD_BYTES), and whether
 * packets never lie in several pieces (IN_ONE_PIECE). Only where the route says so anything of this is run. An event that
 * cannot be kept goes its way all the same.
 */
#ifndef TEMPOS_JOURNAL_WRITE_H
#define TEMPOS_JOURNAL_WRITE_H

#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "journal.h"
#include "maps.h"

#define JOURNAL_PAYLOAD_AT (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))
/* In the first cell of a slot, and in all that there can be. */
#define JOURNAL_FIRST (TEMPOS_JOURNAL_CELL - sizeof(struct tempos_journal_slot))
#define JOURNAL_CELLS ((TEMPOS_JOURNAL_MOST_BYTES + sizeof(struct tempos_journal_slot)) / TEMPOS_JOURNAL_CELL + 1)

/* An event, and its ticket in the first group; those of several groups are in `drawn`. */
struct journal_event {
	__u64 ticket;
	__u32 row;
	__u32 epoch;
	__u32 length;
	__u32 groups;
};

#ifdef IN_ONE_PIECE
/* A whole cell of the packet from `at` on; false: it is not there. By words: a helper takes as long for its start. */
static __always_inline bool journal_cell(CONTEXT *ctx, __u32 at, __u64 *to)
{
	const __u64 *from;
	__u64 offset = at;

	/* A bound by what is computed, as below; and what is compared is what is read from, nothing derived from that. */
	asm volatile("%0 &= 0x3fff" : "+r"(offset));
	from = (const void *)(long)ctx->data + offset;
	asm volatile("" : "+r"(from));
	if ((const void *)from + TEMPOS_JOURNAL_CELL > (const void *)(long)ctx->data_end)
		return false;
#pragma unroll
	for (__u32 i = 0; i < TEMPOS_JOURNAL_CELL / sizeof(*to); i++)
		to[i] = from[i];
	return true;
}

/* The first `less` + 1 bytes of the payload; what follows them in the packet may be in the last word. */
static __always_inline bool journal_first(CONTEXT *ctx, __u64 *to, __u32 less)
{
	const __u8 *from = (const __u8 *)(long)ctx->data + JOURNAL_PAYLOAD_AT;

#pragma nounroll
	for (__u32 i = 0; i < JOURNAL_FIRST / sizeof(*to) && i * sizeof(*to) <= less; i++, from += sizeof(*to)) {
		if (from + sizeof(*to) > (const __u8 *)(long)ctx->data_end)
			return !LOAD_BYTES(ctx, JOURNAL_PAYLOAD_AT, to, less + 1);
		to[i] = *(const __u64 *)from;
	}
	return true;
}
#else
#define journal_cell(ctx, at, to) (!LOAD_BYTES(ctx, at, to, TEMPOS_JOURNAL_CELL))
#define journal_first(ctx, to, less) (!LOAD_BYTES(ctx, JOURNAL_PAYLOAD_AT, to, (less) + 1))
#endif

/* The payload into the cells from `cell` on, of which the first is `slot`; false: it is not all there. */
static __always_inline bool journal_payload(CONTEXT *ctx, void *journal, __u32 cell, void *slot, __u32 length)
{
	__u32 part = length < JOURNAL_FIRST ? length : JOURNAL_FIRST;
	__u32 at = JOURNAL_PAYLOAD_AT + part, rest = length - part, last;
	void *to;

	if (rest) {
		/* Cells that are full, so that the loop has one way through it: the verifier of 6.1 wants to see where it begins. */
		last = rest - 1;
#pragma nounroll
		for (__u32 i = 0; i < JOURNAL_CELLS && i < last / TEMPOS_JOURNAL_CELL; i++) {
			cell++;
			to = bpf_map_lookup_elem(journal, &cell);
			if (!to || !journal_cell(ctx, at, to))
				return false;
			at += TEMPOS_JOURNAL_CELL;
		}
		cell++;
		to = bpf_map_lookup_elem(journal, &cell);
		/* At least one and at most a cell, by what is computed: no comparison tells that verifier of a 0. */
		asm volatile("%0 &= 127" : "+r"(last));
		if (!to || LOAD_BYTES(ctx, at, to, last + 1))
			return false;
	}
	/* Of a size less 1 any bound that is compared is one from below, too; of 0 that verifier learns nothing. */
	part--;
	asm volatile("" : "+r"(part));
	return part < JOURNAL_FIRST && journal_first(ctx, slot + sizeof(struct tempos_journal_slot), part);
}

/* The tickets of all groups, into the last cell of the slot that begins at `cell`. */
static __always_inline void journal_tickets(void *journal, __u32 cell)
{
	const __u32 only = 0;
	struct tempos_drawn *tickets = bpf_map_lookup_elem(&drawn, &only);
	__u32 *to = bpf_map_lookup_elem(journal, &cell);

	if (!tickets || !to)
		return;
	for (__u32 group = 0; group < TEMPOS_MAX_GROUPS; group++)
		to[group] = tickets->of[group];
}

/* After all that was written into the slot. Where stores are seen in their order none has to be waited for. */
static __always_inline void give_back(__u64 *word, __u64 value)
{
#ifdef TEMPOS_STORES_IN_ORDER
	asm volatile("" ::: "memory");
	*(volatile __u64 *)word = value;
#else
	__sync_lock_test_and_set(word, value);
#endif
}

/* A global function: the verifier looks at it alone, and routes without a journal keep their registers. */
__noinline int write_journal(CONTEXT *ctx, const struct journal_event *event)
{
	struct tempos_journal_slot *slot;
	struct tempos_journal *head;
	__u64 position, whole, was;
	__u32 cell = 0, row, cells;
	void *journal;
	bool kept = true;

	if (!event)
		return 0;
	row = event->row;
	journal = bpf_map_lookup_elem(&journals, &row);
	if (!journal)
		return 0;
	head = bpf_map_lookup_elem(journal, &cell);
	if (!head || head->epoch[event->epoch & 1] != event->epoch)
		return 0;
	cells = head->cells;
	position = head->first[event->epoch & 1] + event->ticket;
	cell = 1 + (position & (head->slots - 1)) * cells;
	slot = bpf_map_lookup_elem(journal, &cell);
	if (!slot)
		return 0;
	whole = tempos_journal_word(position);
	was = *(volatile __u64 *)&slot->word;
	if (was & TEMPOS_JOURNAL_WRITTEN || was >= whole ||
	    __sync_val_compare_and_swap(&slot->word, was, whole | TEMPOS_JOURNAL_KERNEL) != was)
		return 0;
	slot->ticket = event->ticket;
	slot->at_ns = bpf_ktime_get_coarse_ns();
	slot->epoch = event->epoch;
	slot->length = event->length;
	slot->groups = event->groups;
	if (event->groups > 1)
		journal_tickets(journal, cell + cells - 1);
	if (event->length <= head->bytes)
		kept = journal_payload(ctx, journal, cell, slot, event->length);
	else if (event->length >= TEMPOS_WIDE_HEADER_LEN)
		kept = !LOAD_BYTES(ctx, JOURNAL_PAYLOAD_AT, (void *)(slot + 1), TEMPOS_WIDE_HEADER_LEN);
	give_back(&slot->word, kept ? whole : 0);
	return kept;
}

/* Whether the publisher of an event has sent it again meanwhile, which came first. */
__noinline int is_guarded(__u32 row, __u32 publisher, __u32 sequence)
{
	struct tempos_journal *head;
	__u32 at, cell = 0;
	__u64 *guards;
	void *journal;

	journal = bpf_map_lookup_elem(&journals, &row);
	if (!journal)
		return 0;
	head = bpf_map_lookup_elem(journal, &cell);
	if (!head || !head->guarded)
		return 0;
	at = tempos_journal_guard_at(publisher, sequence);
	cell = 1 + head->slots * head->cells + at / (TEMPOS_JOURNAL_CELL / sizeof(*guards));
	guards = bpf_map_lookup_elem(journal, &cell);
	return guards && *(volatile __u64 *)&guards[at % (TEMPOS_JOURNAL_CELL / sizeof(*guards))] ==
				 tempos_journal_guard_of(publisher, sequence);
}

/* The same of an event of this route, whose payload begins here and ends where readable memory does at most. */
static __always_inline bool is_repeated(const struct tempos_route *route, const void *payload, const void *end)
{
	const struct tempos_event_header *event = payload;

	return route->journal && route->framing == TEMPOS_FRAMING_EVENT &&
	       payload + TEMPOS_EVENT_HEADER_LEN <= end &&
	       is_guarded(route->ticket_base / (2 * TEMPOS_GROUPS_PER_TOPIC), bpf_ntohl(event->publisher),
			  bpf_ntohl(event->sequence));
}

/* Keeps the event of this route with this ticket in the first group, `length` bytes of payload; before it changes. */
static __always_inline void keep_event(CONTEXT *ctx, const struct tempos_route *route, __u64 ticket, __u32 length,
				       __u32 groups)
{
	struct journal_event event = {
		.ticket = ticket,
		.row = route->ticket_base / (2 * TEMPOS_GROUPS_PER_TOPIC),
		.epoch = route->epoch,
		.length = length,
		.groups = groups,
	};

	write_journal(ctx, &event);
}

#endif
