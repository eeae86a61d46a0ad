/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose events stand in a journal: read position by position, and gathered to runs of numbers of one publisher.
 */
#ifndef TEMPOS_BATCH_WALK_H
#define TEMPOS_BATCH_WALK_H

#include <arpa/inet.h>

#include "batch_types.h"
#include "journal.h"

/* Runs that are looked at to find the one that goes on with an event. */
#define WALK_BACK 16

/* The numbers [first, first + count) of a publisher. */
struct tempos_walked {
	uint32_t publisher;
	uint32_t first;
	uint32_t count;
	uint32_t pad;
};

static uint32_t walk_number(const uint8_t *at)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	return ntohl(number);
}

/* How many events a batch holds; one where that cannot be told: it is too large to be held, or encrypted. */
static uint32_t walk_bodies(const uint8_t *run, uint32_t length)
{
	uint32_t count = 0, at = 0;

	while (at + TEMPOS_BATCH_LENGTH_LEN <= length) {
		at += TEMPOS_BATCH_LENGTH_LEN + (((uint32_t)run[at] << 8) | run[at + 1]);
		count++;
	}
	return at == length && count ? count : 1;
}

/* The event that stands whole at a position; 0: there is none. */
static int walk_read(const struct tempos_journal_view *v, const uint8_t *slot, uint64_t whole,
		     struct tempos_walked *event)
{
	const struct tempos_journal_slot *head = (const struct tempos_journal_slot *)slot;
	const uint8_t *payload = (const uint8_t *)(head + 1);
	uint32_t length = head->length;
	int wide = payload[0] == TEMPOS_WIDE;
	uint32_t header = wide ? TEMPOS_WIDE_HEADER_LEN : TEMPOS_EVENT_HEADER_LEN;
	uint8_t flags = payload[wide ? TEMPOS_WIDE_FLAGS_AT : 1];

	event->publisher = walk_number(payload + 4);
	event->first = walk_number(payload + 8);
	event->count = 1;
	if (flags & TEMPOS_FLAG_BATCH && length <= v->bytes && length > header)
		event->count = walk_bodies(payload + header, length - header);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&head->word, __ATOMIC_RELAXED) == whole;
}

static void walk_add(struct tempos_walked *found, uint32_t *count, const struct tempos_walked *event)
{
	for (uint32_t back = 1; back <= WALK_BACK && back <= *count; back++) {
		struct tempos_walked *run = &found[*count - back];

		if (run->publisher == event->publisher && run->first + run->count == event->first) {
			run->count += event->count;
			return;
		}
	}
	found[(*count)++] = *event;
}

/*
 * The positions from `at` on, to `end` or until there is no room: what stands there, as `found` (room for `most`), and
 * what does not yet, as `lacking` (as much room). `lapped` of them have been overwritten. Gives how many of `found`;
 * `at` is where the next walk begins.
 */
static uint32_t tempos_journal_walk(const struct tempos_journal_view *v, uint64_t *at, uint64_t end, uint32_t most,
				    struct tempos_walked *found, uint64_t *lacking, uint32_t *lacking_count,
				    uint32_t *lapped)
{
	uint32_t count = 0;

	*lacking_count = *lapped = 0;
	for (; *at < end && count < most && *lacking_count < most; ++*at) {
		const uint8_t *slot = tempos_journal_slot_at(v, *at);
		uint64_t whole = tempos_journal_word(*at);
		uint64_t is = __atomic_load_n(&((const struct tempos_journal_slot *)slot)->word, __ATOMIC_ACQUIRE);
		struct tempos_walked event = {0};

		if (is >> 2 > whole >> 2)
			++*lapped;
		else if (is != whole)
			lacking[(*lacking_count)++] = *at;
		else if (walk_read(v, slot, whole, &event))
			walk_add(found, &count, &event);
		else
			++*lapped;
	}
	return count;
}

/* What stands there of one publisher, in no order, as far as there is room; how many. */
static uint32_t tempos_journal_walk_all(const struct tempos_journal_view *v, uint32_t publisher, uint32_t most,
					struct tempos_walked *found)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < v->slots && count < most; i++) {
		const uint8_t *slot = tempos_journal_slot_at(v, i);
		const struct tempos_journal_slot *head = (const struct tempos_journal_slot *)slot;
		uint64_t is = __atomic_load_n(&head->word, __ATOMIC_ACQUIRE);
		struct tempos_walked event = {0};

		if (is && !(is & TEMPOS_JOURNAL_WRITTEN) && walk_read(v, slot, is, &event) &&
		    event.publisher == publisher)
			walk_add(found, &count, &event);
	}
	return count;
}

/* Which of a chain of datagrams, by their places, have been sent again meanwhile; how many. */
static uint32_t tempos_batch_guarded(struct tempos_batch *b, const struct tempos_journal_view *v, uint32_t slot,
				     uint32_t count, uint32_t *places)
{
	uint32_t found = 0;

	for (uint32_t place = 0; place < count; place++, slot = b->slots[slot].next) {
		const uint8_t *payload = slot_bytes(b, slot);

		if (tempos_journal_guarded(v, walk_number(payload + 4), walk_number(payload + 8)))
			places[found++] = place;
	}
	return found;
}

#endif
