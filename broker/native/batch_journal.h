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
	uint64_t tickets[TEMPOS_GROUPS_PER_TOPIC];
	uint32_t kept = 0;

	if (!first || !groups || groups > TEMPOS_GROUPS_PER_TOPIC)
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

#endif
