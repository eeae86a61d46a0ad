/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How fast a topic's datagrams may come: a token bucket, as the generic cell rate algorithm. Compiled into
 * the XDP program and into user space, which take from the same bucket (struct tempos_topic).
 *
 * The bucket is one number: when the next datagram is due if all come exactly at the rate. Each that is taken
 * moves it on by one interval; it may be ahead of the clock by `tolerance`, so `burst` datagrams are taken at
 * once after a pause, and never more than `burst + rate * t` in any time t.
 *
 *        now                 due                now + tolerance
 *   ------|-------------------|--------------------|------------> time
 *         |<---- ahead ------>|<- room: taken ---->|<- refused
 *
 * Rules kept here:
 *  - The bucket is read before the clock. Whatever wrote it looked at the clock earlier still, so `due` is
 *    ahead by at most a tolerance and an interval. What is ahead by more, and by more than the slack, was left
 *    by another limit or by a clock that began anew, and counts as nothing.
 *  - It changes by compare and swap alone: what one has taken, no other takes. Who does not get through is
 *    refused.
 *  - A limit may change at any time, so each of its numbers is read once.
 *  - Times are modulo 2^64 and compared by their difference: 2^63 / 1024 ns are 104 days.
 */
#ifndef TEMPOS_LIMIT_H
#define TEMPOS_LIMIT_H

#include "abi.h"

/* One second: more than the clocks of two CPUs are ever apart. */
#define TEMPOS_LIMIT_SLACK (1000000000ULL << TEMPOS_LIMIT_SHIFT)

/* `limit` as it is now. */
static inline __attribute__((always_inline)) struct tempos_limit
tempos_limit_read(const struct tempos_limit *limit)
{
	return (struct tempos_limit){
		.interval = *(const volatile __u64 *)&limit->interval,
		.tolerance = *(const volatile __u64 *)&limit->tolerance,
	};
}

/* How far `due` is ahead of the clock. */
static inline __attribute__((always_inline)) __u64
tempos_limit_ahead(struct tempos_limit limit, __u64 due, __u64 now)
{
	__u64 ahead = due - now;

	if ((__s64)ahead <= 0 || ahead > limit.tolerance + limit.interval + TEMPOS_LIMIT_SLACK)
		return 0;
	return ahead;
}

#ifdef __bpf__

#include <stdbool.h>

#include <bpf/bpf_helpers.h>

/* Each failure is another CPU's success, and those are bounded by the rate and the burst. */
#define TEMPOS_LIMIT_TRIES 16

/* Whether one datagram may come now; takes its place. A grant of 1, without the division. */
static __always_inline bool tempos_limit_take_one(struct tempos_topic *topic)
{
	struct tempos_limit limit = tempos_limit_read(&topic->limit);

	if (!limit.interval)
		return true;
#pragma nounroll
	for (int i = 0; i < TEMPOS_LIMIT_TRIES; i++) {
		__u64 due = *(volatile __u64 *)&topic->due;
		__u64 now = bpf_ktime_get_ns() << TEMPOS_LIMIT_SHIFT;
		__u64 ahead = tempos_limit_ahead(limit, due, now);

		if (ahead > limit.tolerance)
			return false;
		if (__sync_val_compare_and_swap(&topic->due, due, now + ahead + limit.interval) == due)
			return true;
	}
	return false;
}

#else

#include <time.h>

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

/*
 * How many of `wanted` datagrams may come `now`, and when the next is due then. The whole decision; reads
 * and changes nothing else.
 */
static inline __u32 tempos_limit_grant(struct tempos_limit limit, __u64 due, __u64 now, __u32 wanted, __u64 *next)
{
	__u64 ahead = tempos_limit_ahead(limit, due, now);
	__u64 room;

	*next = due;
	if (ahead > limit.tolerance)
		return 0;
	room = (limit.tolerance - ahead) / limit.interval + 1;
	if (room < wanted)
		wanted = (__u32)room;
	*next = now + ahead + wanted * limit.interval;
	return wanted;
}

/*
 * Takes the places of up to `wanted` datagrams that come now; gives how many. `clock_offset_ns`: how far
 * this process's CLOCK_MONOTONIC is ahead of the kernel's own (a time namespace).
 */
static inline __u32 tempos_limit_take(struct tempos_topic *topic, long long clock_offset_ns, __u32 wanted)
{
	struct tempos_limit limit = tempos_limit_read(&topic->limit);
	__u64 due = __atomic_load_n(&topic->due, __ATOMIC_ACQUIRE);

	if (!limit.interval || !wanted)
		return wanted;
	for (;;) {
		struct timespec at;
		__u64 now, next;
		__u32 granted;

		clock_gettime(CLOCK_MONOTONIC, &at);
		now = (__u64)(at.tv_sec * 1000000000LL + at.tv_nsec - clock_offset_ns) << TEMPOS_LIMIT_SHIFT;
		granted = tempos_limit_grant(limit, due, now, wanted, &next);
		/* A failure brings the present number, so the clock is read after it again. */
		if (!granted ||
		    __atomic_compare_exchange_n(&topic->due, &due, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return granted;
	}
}

/*
 * Says what holds of a topic from now on. A bucket whose limit changes begins full; until the new limit
 * stands whole, its burst is 1.
 */
static inline void tempos_topic_set(struct tempos_topic *topic, __u32 quality, __u32 overflow, __u32 rate,
				    __u32 burst)
{
	struct tempos_limit limit = tempos_limit_of(rate, burst), old = tempos_limit_read(&topic->limit);

	__atomic_store_n(&topic->quality, quality, __ATOMIC_RELAXED);
	__atomic_store_n(&topic->overflow, overflow, __ATOMIC_RELAXED);
	if (limit.interval == old.interval && limit.tolerance == old.tolerance)
		return;
	__atomic_store_n(&topic->limit.tolerance, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&topic->limit.interval, limit.interval, __ATOMIC_SEQ_CST);
	__atomic_store_n(&topic->due, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&topic->limit.tolerance, limit.tolerance, __ATOMIC_SEQ_CST);
}

#endif

#endif
