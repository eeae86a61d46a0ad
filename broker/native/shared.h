/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers in memory that several processes, and the kernel's program, draw from; and the note that a
 * process keeps of the run for which it draws tickets, so that another one can finish what it began if it
 * is killed half-way:
 *
 *   note it (stage 1) -> count it (2) -> ticket of group 0 (3) -> ticket of group 1 (4) -> ...
 *
 * A run is done once `forwarded`, which only this process writes, has reached `target`. A kill between an
 * addition and the stage behind it, one instruction in between, is the one thing that nobody can tell.
 */
#ifndef TEMPOS_SHARED_H
#define TEMPOS_SHARED_H

#include <stdint.h>

#include "limit.h"

struct tempos_note {
	uint64_t stage;
	uint64_t topic;
	uint64_t epoch;
	uint64_t count;
	uint64_t target;
	uint64_t drawn;
};

static uint64_t tempos_shared_add(uint64_t *at, uint64_t count)
{
	return __atomic_fetch_add(at, count, __ATOMIC_SEQ_CST);
}

static uint64_t tempos_shared_load(uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

static void tempos_shared_store(uint64_t *at, uint64_t value)
{
	__atomic_store_n(at, value, __ATOMIC_SEQ_CST);
}

static uint64_t tempos_shared_draw(struct tempos_note *note, const uint64_t *forwarded, uint64_t *counted,
				   uint64_t *ticket, uint32_t topic, uint32_t epoch, uint32_t group,
				   uint32_t count, uint32_t groups)
{
	uint64_t first;

	if (!group) {
		tempos_shared_store(&note->stage, 0);
		note->topic = topic;
		note->epoch = epoch;
		note->count = count;
		note->target = *forwarded + count;
		tempos_shared_store(&note->stage, 1);
		if (counted)
			tempos_shared_add(counted, count);
		tempos_shared_store(&note->stage, 2);
	}
	first = tempos_shared_add(ticket, count);
	tempos_shared_store(&note->drawn, note->drawn + (uint64_t)count * groups);
	tempos_shared_store(&note->stage, 3 + group);
	return first;
}

#endif
