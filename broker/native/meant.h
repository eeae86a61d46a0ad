/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a group takes what an address sends: ranges of addresses, which tempos._senders fills.
 */
#ifndef TEMPOS_MEANT_H
#define TEMPOS_MEANT_H

#include <stdint.h>

#define TEMPOS_RANGES 512

/* Addresses from `start`, in host order, up to the next range: bits of the groups that take what they send. */
struct tempos_range {
	uint32_t start;
	uint32_t groups;
};

/*
 * Bits of the groups that take what comes from `address`, as it lies in a packet. Of `ranges` there are RANGES, sorted,
 * of which the first begins at 0. The same few steps whatever they say.
 */
static inline uint32_t tempos_meant(const struct tempos_range *ranges, uint32_t address)
{
	const uint8_t *byte = (const uint8_t *)&address;
	uint32_t wanted = (uint32_t)byte[0] << 24 | byte[1] << 16 | byte[2] << 8 | byte[3], at = 0;

	for (uint32_t step = TEMPOS_RANGES / 2; step; step >>= 1)
		if (ranges[at | step].start <= wanted)
			at |= step;
	return ranges[at].groups;
}

#endif
