/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes (`tempos trace`): events like any other, in which the slow path writes that it has had them, and when. So
 * whoever gets one without these marks knows that the fast path carried it, which leaves it as it is.
 */
#ifndef TEMPOS_BATCH_PROBE_H
#define TEMPOS_BATCH_PROBE_H

#include <stddef.h>
#include <time.h>

#include "batch_types.h"

static void write_now(uint8_t *at)
{
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_REALTIME, &now);
	ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	for (int i = 8; i-- > 0; ns >>= 8)
		at[i] = (uint8_t)ns;
}

/* Mark a datagram that may be forwarded if it is a probe; where in it the marks are, else 0. */
static uint32_t probe_taken(const struct tempos_batch *b, uint8_t *payload, uint32_t length, uint8_t framing)
{
	const uint8_t both = TEMPOS_FLAG_TRACE | TEMPOS_FLAG_ENVELOPE;
	const int wide = payload[0] == TEMPOS_WIDE;
	const uint32_t at = (wide ? TEMPOS_WIDE_HEADER_LEN : TEMPOS_EVENT_HEADER_LEN) + TEMPOS_ENVELOPE_LEN;
	struct tempos_probe *probe = (struct tempos_probe *)(payload + at);

	/* What is framed has been checked: its header is there. */
	if (framing != TEMPOS_FRAMING_EVENT ||
	    (payload[wide ? TEMPOS_WIDE_FLAGS_AT : offsetof(struct tempos_event_header, version_flags)] & both) != both ||
	    length < at + TEMPOS_PROBE_MARKS_LEN || probe->version != TEMPOS_PROBE_VERSION_1)
		return 0;
	probe->path = TEMPOS_PROBE_SLOW;
	memcpy(probe->broker_clock, b->clock, sizeof(b->clock));
	write_now((uint8_t *)&probe->taken_ns);
	return at;
}

/* Its copies are addressed now. */
static void probe_leaves(uint8_t *payload, uint32_t at)
{
	write_now(payload + at + offsetof(struct tempos_probe, left_ns));
}

#endif
