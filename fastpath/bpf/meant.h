/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which groups of a topic take what an address sends: ranges of addresses, which tempos._senders fills. Compiled into the
 * programs and into the slow path's batch helper, so that they cannot disagree.
 */
#ifndef TEMPOS_MEANT_H
#define TEMPOS_MEANT_H

#include "abi.h"

/*
 * Bits of the groups that take what comes from `address`, as it lies in a packet. Of `ranges` there are RANGES, sorted,
 * of which the first begins at 0. The same few steps whatever they say, and no branch: a verifier would go both ways
 * at each. What the compiler knows of a number it may leave out where a verifier wants to see it, hence the barriers.
 */
static inline __attribute__((always_inline)) __u32
tempos_meant(const struct tempos_range *ranges, __be32 address)
{
	const __u8 *byte = (const __u8 *)&address;
	__u64 wanted = (__u32)byte[0] << 24 | byte[1] << 16 | byte[2] << 8 | byte[3], at = 0;

	for (__u32 step = TEMPOS_RANGES / 2; step; step >>= 1) {
		__u64 tried = at | step, behind;

		asm volatile("" : "+r"(tried));
		/* 1 where the range begins behind the address; of all ones newer verifiers go both ways. */
		behind = wanted - ranges[tried & (TEMPOS_RANGES - 1)].start;
		asm volatile("" : "+r"(behind));
		behind >>= 63;
		at += step - step * behind;
	}
	asm volatile("" : "+r"(at));
	return ranges[at & (TEMPOS_RANGES - 1)].groups;
}

#endif
