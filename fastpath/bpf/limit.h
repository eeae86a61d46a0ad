/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How fast a topic's datagrams may come: a token bucket, as the generic cell rate algorithm. Compiled into
 * the XDP program and into user space, which draw from the same bucket.
 *
 * The bucket is one number: when the next datagram is due if all come at the rate exactly. Each that is
 * taken moves it on by one interval; it may be ahead of the clock by `tolerance`, so `burst` datagrams are
 * taken at once after a pause, and never more than `burst + rate * t` in any time t.
 *
 *        now                 due                now + tolerance
 *   ------|-------------------|--------------------|------------> time
 *         |<---- ahead ------>|<- room: taken ->   |<- refused
 *
 * Rules kept here:
 *  - The bucket is read before the clock. So whatever wrote it looked at the clock earlier, and `due` is
 *    ahead of the clock by at most a tolerance and an interval. What is further ahead by more than the slack was
 *    left by another limit or by a clock that began anew, and counts as nothing.
 *  - It changes by compare and swap alone: what one has taken, no other takes. Who cannot get through is
 *    refused.
 *  - Times are modulo 2^64 and compared by their difference: 2^63 / 1024 ns are 104 days.
 */
#ifndef TEMPOS_LIMIT_H
#define TEMPOS_LIMIT_H

#include "abi.h"

/* One second: more than clocks of two CPUs are ever apart. */
#define TEMPOS_LIMIT_SLACK (1000000000ULL << TEMPOS_LIMIT_SHIFT)

/* Rounded up, so that no more than `rate` datagrams a second are taken. A rate of 0: no limit. */
static inline struct tempos_limit tempos_limit_of(__u32 rate, __u32 burst)
{
	struct tempos_limit limit = {0, 0};

	if (rate) {
		limit.interval = ((1000000000ULL << TEMPOS_LIMIT_SHIFT) + rate - 1) / rate;
		limit.tolerance = burst ? (burst - 1) * limit.interval : 0;
	}
	return limit;
}

/* How far `due` is ahead of the clock. */
static inline __attribute__((always_inline)) __u64
tempos_limit_ahead(const struct tempos_limit *limit, __u64 due, __u64 now)
{
	__u64 ahead = due - now;

	if ((__s64)ahead <= 0 || ahead > limit->tolerance + limit->interval + TEMPOS_LIMIT_SLACK)
		return 0;
	return ahead;
}

/*
 * How many of `wanted` datagrams may come `now`, and when the next is due then. The whole decision; reads
 * and changes nothing.
 */
static inline __u32 tempos_limit_grant(const struct tempos_limit *limit, __u64 due, __u64 now, __u32 wanted,
				       __u64 *next)
{
	__u64 ahead = tempos_limit_ahead(limit, due, now);
	__u64 room;

	if (ahead > limit->tolerance)
		return 0;
	room = (limit->tolerance - ahead) / limit->interval + 1;
	if (room < wanted)
		wanted = room;
	*next = now + ahead + wanted * limit->interval;
	return wanted;
}

#ifdef __bpf__

#include <stdbool.h>

#include <bpf/bpf_helpers.h>

/* Each failure is another CPU's success, which the rate and the burst bound. */
#define TEMPOS_LIMIT_TRIES 16

/* Whether one datagram may come now; takes its place. The same as a grant of 1, without the division. */
static __always_inline bool tempos_limit_take_one(const struct tempos_limit *limit, __u64 *bucket)
{
#pragma nounroll
	for (int i = 0; i < TEMPOS_LIMIT_TRIES; i++) {
		__u64 due = *(volatile __u64 *)bucket;
		__u64 now = bpf_ktime_get_ns() << TEMPOS_LIMIT_SHIFT;
		__u64 ahead = tempos_limit_ahead(limit, due, now);

		if (ahead > limit->tolerance)
			return false;
		if (__sync_val_compare_and_swap(bucket, due, now + ahead + limit->interval) == due)
			return true;
	}
	return false;
}

#else

#include <time.h>

/*
 * Takes the places of up to `wanted` datagrams that come now; gives how many. `clock_offset_ns`: how far
 * this process's CLOCK_MONOTONIC is ahead of the kernel's own (a time namespace).
 */
static inline __u32 tempos_limit_take(const struct tempos_limit *limit, __u64 *bucket,
				      long long clock_offset_ns, __u32 wanted)
{
	__u64 due = __atomic_load_n(bucket, __ATOMIC_ACQUIRE);

	if (!wanted || !limit->interval)
		return wanted;
	for (;;) {
		struct timespec at;
		__u64 now, next;
		__u32 granted;

		clock_gettime(CLOCK_MONOTONIC, &at);
		now = (__u64)(at.tv_sec * 1000000000LL + at.tv_nsec - clock_offset_ns) << TEMPOS_LIMIT_SHIFT;
		granted = tempos_limit_grant(limit, due, now, wanted, &next);
		if (!granted)
			return 0;
		if (__atomic_compare_exchange_n(bucket, &due, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return granted;
	}
}

#endif

#endif
