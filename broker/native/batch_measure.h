/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is measured of a topic: bytes of payload, and, where that is wanted, how long its events took.
 *
 *   inside      from when recvmmsg had handed over the batch that an event came in, to when the kernel had taken the
 *               last of its copies, or refused it
 *   since_sent  from the send time that an event carries to that same moment
 *
 * Rules kept here:
 *  - Clocks are read once for each system call, not for each event: all that a call moved has one time.
 *  - Each event that was handed to the kernel is in `inside` once, and in `since_sent` once if it is of a topic with event
 *    framing: in a bucket, or under `beyond` or `ahead`. What nobody takes, and what was given up, is in neither.
 *  - The words have one writer; whoever else sees the memory may read them at any time.
 */
#ifndef TEMPOS_BATCH_MEASURE_H
#define TEMPOS_BATCH_MEASURE_H

#include <endian.h>
#include <stddef.h>
#include <time.h>

#include "batch_types.h"
#include "buckets.h"

/* As tempos_broker.slowpath.measures reads it; without times only the first two words are there. */
struct tempos_measured {
	uint64_t arrived_bytes;
	uint64_t forwarded_bytes;
	struct tempos_histogram inside;
	struct tempos_histogram since_sent;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void note_time(struct tempos_histogram *histogram, uint64_t ns, uint32_t count)
{
	if (ns >= TEMPOS_LATENCY_BEYOND) {
		histogram->beyond += count;
		return;
	}
	histogram->bucket[tempos_bucket_of(ns)] += count;
	if (ns > histogram->longest)
		histogram->longest = ns;
}

/* What a system call has just sent went now. */
static void it_is_now(struct tempos_batch *b)
{
	if (!b->timed)
		return;
	b->now_ns = clock_ns(CLOCK_MONOTONIC);
	b->real_ns = clock_ns(CLOCK_REALTIME);
}

/* The last copies of `count` events have gone that were received together, at `taken_ns`. */
static void measure_inside(struct tempos_batch *b, uint16_t topic, uint64_t taken_ns, uint32_t count)
{
	if (count && b->measured[topic])
		note_time(&b->measured[topic]->inside, b->now_ns - taken_ns, count);
}

/* The last copy of the event in this slot has gone. */
static void measure_since_sent(struct tempos_batch *b, uint16_t topic, uint32_t at)
{
	struct tempos_measured *measured = b->measured[topic];
	uint64_t sent;

	if (!measured || b->framing[topic] != TEMPOS_FRAMING_EVENT ||
	    b->slots[at].length < sizeof(struct tempos_event_header))
		return;
	memcpy(&sent, slot_bytes(b, at) + offsetof(struct tempos_event_header, sent_ns), sizeof(sent));
	sent = be64toh(sent);
	if (sent > b->real_ns)
		measured->since_sent.ahead++;
	else
		note_time(&measured->since_sent, b->real_ns - sent, 1);
}

/* Bytes of `count` chained slots are forwarded. */
static void measure_forwarded(struct tempos_batch *b, uint16_t topic, uint32_t count)
{
	struct tempos_measured *measured = b->measured[topic];
	uint64_t bytes = 0;

	if (!measured)
		return;
	for (uint32_t i = 0; i < count; i++)
		bytes += b->slots[b->chain[i]].length;
	measured->forwarded_bytes += bytes;
}

static void tempos_batch_measure(struct tempos_batch *b, uint16_t topic, uint64_t *words)
{
	b->measured[topic] = (struct tempos_measured *)words;
}

static void tempos_batch_timed(struct tempos_batch *b, int timed)
{
	b->timed = (uint8_t)timed;
}

#endif
