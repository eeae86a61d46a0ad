/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which bucket of a histogram (struct tempos_histogram) a time belongs to. Compiled into the programs, and into
 * user space to be tested; the way back, from a bucket to its times, is tempos.histogram.bounds.
 */
#ifndef TEMPOS_BUCKETS_H
#define TEMPOS_BUCKETS_H

#include "abi.h"

/*
 * `ns` is below TEMPOS_LATENCY_BEYOND. The highest bit that is set says which power of two it is, the
 * TEMPOS_LATENCY_STEP_BITS behind it which step in there.
 */
static inline __attribute__((always_inline)) __u32 tempos_bucket_of(__u64 ns)
{
	__u64 high = ns >> TEMPOS_LATENCY_STEP_BITS;
	__u32 shift = 0;

	/* How far that bit is above the smallest that has steps; BPF has no instruction for it. */
	for (__u32 step = 16; step; step /= 2) {
		if (high >> step) {
			high >>= step;
			shift += step;
		}
	}
	return (shift << TEMPOS_LATENCY_STEP_BITS) + (__u32)(ns >> shift);
}

#endif
