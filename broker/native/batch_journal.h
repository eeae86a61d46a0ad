/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs into the journals of their topics: before anything of them is staged, so as they came in.
 */
#ifndef TEMPOS_BATCH_JOURNAL_H
#define TEMPOS_BATCH_JOURNAL_H

#include "batch_types.h"
#include "journal.h"

static uint32_t tempos_batch_journal(struct tempos_batch *b, const struct tempos_journal_view *v, uint32_t slot,
				     uint32_t count, uint32_t epoch, const uint64_t *first_tickets, uint32_t groups)
{
	uint64_t first = tempos_journal_first(v, epoch), now = tempos_journal_now();
	uint64_t tickets[TEMPOS_JOURNAL_TICKETS];
	uint32_t kept = 0;

	if (!first || !groups || groups > TEMPOS_JOURNAL_TICKETS)
		return 0;
	memcpy(tickets, first_tickets, groups * sizeof(*tickets));
	for (; count--; slot = b->slots[slot].next) {
		kept += tempos_journal_put(v, first + tickets[0], epoch, tickets, groups, slot_bytes(b, slot),
					   b->slots[slot].length, now);
		for (uint32_t g = 0; g < groups; g++)
			tickets[g]++;
	}
	return kept;
}

static int tempos_journal_drew(const struct tempos_journal_view *v, uint64_t position, uint32_t epoch, uint32_t group,
			       uint32_t ticket)
{
	const uint8_t *slot = tempos_journal_slot_at(v, position);
	const struct tempos_journal_slot *head = (const struct tempos_journal_slot *)slot;
	const uint32_t *others = (const uint32_t *)(slot + (v->cells - 1) * TEMPOS_JOURNAL_CELL);

	return __atomic_load_n(&head->word, __ATOMIC_ACQUIRE) == tempos_journal_word(position) &&
	       head->epoch == epoch && group < head->groups && others[group] == ticket;
}

/*
 * Where the event stands whose ticket of a group is this one, or 0. Tickets of an event are drawn one after the
 * other, so where several draw they differ by a few: it is looked for from the same number on, `reach` either way.
 */
static uint64_t tempos_journal_find(const struct tempos_journal_view *v, uint64_t first, uint32_t epoch, uint32_t group,
				    uint32_t ticket, uint32_t reach)
{
	uint64_t near = first + ticket;

	if (group >= TEMPOS_JOURNAL_TICKETS)
		return 0;
	for (uint64_t away = 0; away <= reach; away++) {
		if (tempos_journal_drew(v, near + away, epoch, group, ticket))
			return near + away;
		if (away && near >= first + away && tempos_journal_drew(v, near - away, epoch, group, ticket))
			return near - away;
	}
	return 0;
}

#endif
