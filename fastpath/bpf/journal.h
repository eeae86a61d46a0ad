/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The journal of a topic: its latest events, in memory that the data paths write and anybody may read who has it.
 *
 *   cell 0      head: how large all is, and where the epochs begin (struct tempos_journal)
 *   cells       slot 0: struct tempos_journal_slot, the payload as it came in; in the last cell the tickets by group
 *   cells       slot 1 ...
 *   cells       guards: events that their publishers sent again last
 *
 * An event's *position* follows from its ticket in group 0: it is that, counted from where its epoch begins. The
 * slot is the position modulo the slots; so nothing is drawn for it. An epoch begins at a position beyond all that
 * the one before it can come to, in the slot behind its last (`tempos_journal_begin`).
 *
 * Rules kept here:
 *  - A slot's word says which position stands in it, and whether somebody is writing. Who writes takes the slot by
 *    compare and swap, from a lower position that is whole, and gives it back by a release: so never do two write
 *    to one slot, however long one is held up, and an event whose slot is taken is not kept.
 *  - A reader takes what it copied for whole where the word is the position's, before and after.
 *  - An event that its publisher sends again is guarded before the broker looks whether it is here. Whoever is about
 *    to forward one that is guarded drops it: the other came first. A guard stands until another takes its place.
 *  - A process that is killed while it writes leaves its mark. Whoever follows takes that off, once it is clear that
 *    nobody writes any more (`tempos_journal_mend`); what stood there is gone.
 */
#ifndef TEMPOS_JOURNAL_H
#define TEMPOS_JOURNAL_H

#include "abi.h"

#define TEMPOS_JOURNAL_KERNEL 1
#define TEMPOS_JOURNAL_PROCESS 2
#define TEMPOS_JOURNAL_WRITTEN 3     /* either of them is writing */

/* The word of a slot in which the event of this position stands whole. */
static inline __attribute__((always_inline)) __u64 tempos_journal_word(__u64 position)
{
	return (position + 1) << 2;
}

/* What stands in a guard of this event, and which of the guards it is. */
static inline __attribute__((always_inline)) __u64 tempos_journal_guard_of(__u32 publisher, __u32 sequence)
{
	return (((__u64)publisher << 32) | sequence) + 1;
}

static inline __attribute__((always_inline)) __u32 tempos_journal_guard_at(__u32 publisher, __u32 sequence)
{
	return ((sequence ^ publisher) * 2654435761U >> 16) & (TEMPOS_JOURNAL_GUARDS - 1);
}

#ifndef __bpf__

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Epochs begin at multiples of this and the slot that is next: more events than come while a route is swapped. */
#define TEMPOS_JOURNAL_EPOCH (1ULL << 32)

/* A journal in the memory of this process; the sizes are those of its head, which nobody can change here. */
struct tempos_journal_view {
	__u8 *memory;
	__u32 slots;
	__u32 cells;
	__u32 bytes;
};

static inline __u8 *tempos_journal_slot_at(const struct tempos_journal_view *v, __u64 position)
{
	return v->memory + (1 + (position & (v->slots - 1)) * v->cells) * TEMPOS_JOURNAL_CELL;
}

/* A moment as slots have it. */
static inline __u64 tempos_journal_now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &at);
	return at.tv_sec * 1000000000ULL + at.tv_nsec;
}

/* Where an epoch begins, or 0: it is not in the journal. */
static inline __u64 tempos_journal_first(const struct tempos_journal_view *v, __u32 epoch)
{
	struct tempos_journal *head = (struct tempos_journal *)v->memory;

	if (__atomic_load_n(&head->epoch[epoch & 1], __ATOMIC_ACQUIRE) != epoch)
		return 0;
	return __atomic_load_n(&head->first[epoch & 1], __ATOMIC_RELAXED);
}

/*
 * An epoch is to come, of which nobody has drawn a ticket yet; of the one before so many were. Those that are drawn
 * until the swap is over find slots, too: so many are left free for them, which may be an eighth of all at most.
 */
static inline void tempos_journal_begin(const struct tempos_journal_view *v, __u32 epoch, __u64 drawn, __u32 spare)
{
	struct tempos_journal *head = (struct tempos_journal *)v->memory;
	__u64 last = head->first[0] > head->first[1] ? head->first[0] : head->first[1], next = 0;

	if (last)
		next = last + drawn + (spare < v->slots / 8 ? spare : v->slots / 8);
	__atomic_store_n(&head->epoch[epoch & 1], ~0ULL, __ATOMIC_RELEASE);
	__atomic_store_n(&head->first[epoch & 1],
			 (next / TEMPOS_JOURNAL_EPOCH + 1) * TEMPOS_JOURNAL_EPOCH + (next & (v->slots - 1)),
			 __ATOMIC_RELEASE);
	__atomic_store_n(&head->epoch[epoch & 1], epoch, __ATOMIC_RELEASE);
}

/* Writes an event; whether it is in the journal then. `tickets`: of each group. */
static inline int tempos_journal_put(const struct tempos_journal_view *v, __u64 position, __u32 epoch,
				     const uint64_t *tickets, __u32 groups, const __u8 *payload, __u32 length,
				     __u64 at_ns)
{
	__u8 *slot = tempos_journal_slot_at(v, position);
	__u32 *others = (__u32 *)(slot + (v->cells - 1) * TEMPOS_JOURNAL_CELL);
	struct tempos_journal_slot *head = (struct tempos_journal_slot *)slot;
	__u64 whole = tempos_journal_word(position), was = __atomic_load_n(&head->word, __ATOMIC_ACQUIRE);

	if (was & TEMPOS_JOURNAL_WRITTEN || was >= whole ||
	    !__atomic_compare_exchange_n(&head->word, &was, whole | TEMPOS_JOURNAL_PROCESS, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_RELAXED))
		return 0;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	head->ticket = tickets[0];
	head->at_ns = at_ns;
	head->epoch = epoch;
	head->length = (__u16)length;
	head->groups = (__u8)groups;
	for (__u32 i = 0; groups > 1 && i < groups && i < TEMPOS_JOURNAL_TICKETS; i++)
		others[i] = (__u32)tickets[i];
	if (length <= v->bytes)
		memcpy(head + 1, payload, length);
	else if (length >= TEMPOS_WIDE_HEADER_LEN)
		memcpy(head + 1, payload, TEMPOS_WIDE_HEADER_LEN);
	__atomic_store_n(&head->word, whole, __ATOMIC_RELEASE);
	return 1;
}

/* Copies the event of a position, its head, tickets (room for all) and payload (room for `bytes`); whether it was whole. */
static inline int tempos_journal_read(const struct tempos_journal_view *v, __u64 position,
				      struct tempos_journal_slot *head, __u32 *tickets, __u8 *payload)
{
	__u8 *slot = tempos_journal_slot_at(v, position);
	__u64 *word = &((struct tempos_journal_slot *)slot)->word;
	__u64 whole = tempos_journal_word(position);

	if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != whole)
		return 0;
	memcpy(head, slot, sizeof(*head));
	memcpy(tickets, slot + (v->cells - 1) * TEMPOS_JOURNAL_CELL, TEMPOS_JOURNAL_CELL);
	memcpy(payload, slot + sizeof(*head), head->length <= v->bytes ? head->length : 0);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(word, __ATOMIC_RELAXED) == whole;
}

static inline int tempos_journal_order(const void *one, const void *other)
{
	__u64 a = *(const __u64 *)one, b = *(const __u64 *)other;

	return (a > b) - (a < b);
}

/* The positions after this one whose events stand whole now, in their order; `found` has room for all slots. */
static inline __u32 tempos_journal_scan(const struct tempos_journal_view *v, __u64 after, uint64_t *found)
{
	__u32 count = 0;

	for (__u32 i = 0; i < v->slots; i++) {
		const __u64 *word = &((struct tempos_journal_slot *)tempos_journal_slot_at(v, i))->word;
		__u64 is = __atomic_load_n(word, __ATOMIC_ACQUIRE);

		if (is && !(is & TEMPOS_JOURNAL_WRITTEN) && (is >> 2) - 1 > after)
			found[count++] = (is >> 2) - 1;
	}
	qsort(found, count, sizeof(*found), tempos_journal_order);
	return count;
}

static inline __u64 *tempos_journal_guards(const struct tempos_journal_view *v)
{
	return (__u64 *)(v->memory + (1 + (__u64)v->slots * v->cells) * TEMPOS_JOURNAL_CELL);
}

/* Nobody forwards this event of a publisher any more but who guards it. */
static inline void tempos_journal_guard(const struct tempos_journal_view *v, __u32 publisher, __u32 sequence)
{
	struct tempos_journal *head = (struct tempos_journal *)v->memory;

	__atomic_store_n(&tempos_journal_guards(v)[tempos_journal_guard_at(publisher, sequence)],
			 tempos_journal_guard_of(publisher, sequence), __ATOMIC_RELAXED);
	__atomic_store_n(&head->guarded, 1, __ATOMIC_SEQ_CST);
}

/* Whether there are guards; and whether this event has one. */
static inline int tempos_journal_has_guards(const struct tempos_journal_view *v)
{
	return __atomic_load_n(&((struct tempos_journal *)v->memory)->guarded, __ATOMIC_RELAXED) != 0;
}

static inline int tempos_journal_guarded(const struct tempos_journal_view *v, __u32 publisher, __u32 sequence)
{
	return __atomic_load_n(&tempos_journal_guards(v)[tempos_journal_guard_at(publisher, sequence)],
			       __ATOMIC_RELAXED) == tempos_journal_guard_of(publisher, sequence);
}

/* No event is guarded any more, so that none needs to be looked at. */
static inline void tempos_journal_unguard(const struct tempos_journal_view *v)
{
	__atomic_store_n(&((struct tempos_journal *)v->memory)->guarded, 0, __ATOMIC_RELAXED);
}

/* Frees the slots in which a process was writing that is dead; while no process writes. How many there were. */
static inline __u32 tempos_journal_mend(const struct tempos_journal_view *v)
{
	__u32 count = 0;

	for (__u32 i = 0; i < v->slots; i++) {
		__u64 *word = &((struct tempos_journal_slot *)tempos_journal_slot_at(v, i))->word;
		__u64 is = __atomic_load_n(word, __ATOMIC_ACQUIRE);

		if ((is & TEMPOS_JOURNAL_WRITTEN) == TEMPOS_JOURNAL_PROCESS) {
			__atomic_store_n(word, 0, __ATOMIC_RELEASE);
			count++;
		}
	}
	return count;
}

/* Takes over what fits of a journal that nobody writes any more, while this one may be written; with its epochs. */
static inline void tempos_journal_follow(const struct tempos_journal_view *v, const struct tempos_journal_view *from)
{
	for (__u32 i = 0; i < from->slots; i++) {
		__u8 *slot = tempos_journal_slot_at(from, i);
		struct tempos_journal_slot *head = (struct tempos_journal_slot *)slot;
		__u32 *others = (__u32 *)(slot + (from->cells - 1) * TEMPOS_JOURNAL_CELL);
		uint64_t tickets[TEMPOS_JOURNAL_TICKETS];
		__u32 groups = head->groups < TEMPOS_JOURNAL_TICKETS ? head->groups : TEMPOS_JOURNAL_TICKETS;
		/* What this one has room for and that one had not stays named only. */
		int held = head->length <= from->bytes || head->length > v->bytes;

		if (!head->word || head->word & TEMPOS_JOURNAL_WRITTEN || !held)
			continue;
		for (__u32 g = 0; g < groups; g++)
			tickets[g] = others[g];
		tickets[0] = head->ticket;
		tempos_journal_put(v, (head->word >> 2) - 1, head->epoch, tickets, head->groups, (__u8 *)(head + 1),
				   head->length, head->at_ns);
	}
}

#endif
#endif
