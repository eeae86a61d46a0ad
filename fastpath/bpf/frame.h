/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both data paths demand of a payload before they forward it. Compiled into the XDP program
 * and into the slow path's batch helper, so that they cannot disagree; the portable Python twin is
 * tempos.wire.check_payload, held equal by a property test.
 */
#ifndef TEMPOS_FRAME_H
#define TEMPOS_FRAME_H

#include "abi.h"

/*
 * What is demanded of a datagram with an envelope: the envelope whole, its version and kind known, no batch
 * behind it. A reply is told apart here, since no member gets it. `len` bytes stand behind the header.
 */
static inline __attribute__((always_inline)) enum tempos_reason
tempos_check_envelope(const __u8 *envelope, const __u8 *end, __u32 len, __u8 flags)
{
	if (flags & TEMPOS_FLAG_BATCH || len < TEMPOS_ENVELOPE_LEN || envelope + TEMPOS_ENVELOPE_LEN > end)
		return TEMPOS_BAD_ENVELOPE;
	switch (*envelope) {
	case TEMPOS_ENVELOPE_VERSION << 4 | TEMPOS_KIND_REQUEST:
		return TEMPOS_FORWARDED;
	case TEMPOS_ENVELOPE_VERSION << 4 | TEMPOS_KIND_REPLY:
	case TEMPOS_ENVELOPE_VERSION << 4 | TEMPOS_KIND_ERROR:
		return TEMPOS_REPLY;
	default:
		return TEMPOS_BAD_ENVELOPE;
	}
}

/* Whether this is a keep-alive: nobody's event, so nothing is to be done with it but to count it. */
static inline __attribute__((always_inline)) int
tempos_is_keep_alive(const __u8 *payload, const __u8 *end, __u32 len)
{
	return len == TEMPOS_KEEP_ALIVE_LEN && payload + TEMPOS_KEEP_ALIVE_LEN <= end &&
	       payload[0] == TEMPOS_SERVICE && payload[1] == TEMPOS_SERVICE_KEEP_ALIVE;
}

/*
 * Of a topic whose id is the first byte. `len` is the payload's length by its UDP header; `end` is where readable
 * memory ends (the BPF verifier wants to see the comparison).
 */
static inline __attribute__((always_inline)) enum tempos_reason
tempos_check_payload(const __u8 *payload, const __u8 *end, __u32 len, __u8 framing)
{
	const struct tempos_event_header *event = (const struct tempos_event_header *)payload;

	if (framing != TEMPOS_FRAMING_EVENT)
		return len < 1 ? TEMPOS_EMPTY : TEMPOS_FORWARDED;
	if (len < TEMPOS_EVENT_HEADER_LEN || payload + TEMPOS_EVENT_HEADER_LEN > end)
		return len < 1 ? TEMPOS_EMPTY : TEMPOS_SHORT_HEADER;
	if (event->version_flags >> 4 != TEMPOS_WIRE_VERSION)
		return TEMPOS_BAD_VERSION;
	if (event->reserved)
		return TEMPOS_RESERVED_BITS;
	if (event->version_flags & TEMPOS_FLAG_ENVELOPE)
		return tempos_check_envelope(payload + TEMPOS_EVENT_HEADER_LEN, end,
					     len - TEMPOS_EVENT_HEADER_LEN, event->version_flags);
	return TEMPOS_FORWARDED;
}

/* The same of one whose id follows: the first WIDE_ID_LEN bytes are there and were read. */
static inline __attribute__((always_inline)) enum tempos_reason
tempos_check_wide(const __u8 *payload, const __u8 *end, __u32 len, __u8 framing)
{
	if (framing != TEMPOS_FRAMING_EVENT)
		/* Events of a foreign topic come to its own ports. */
		return framing == TEMPOS_FRAMING_FOREIGN ? TEMPOS_UNKNOWN_TOPIC : TEMPOS_FORWARDED;
	if (len < TEMPOS_WIDE_HEADER_LEN || payload + TEMPOS_WIDE_HEADER_LEN > end)
		return TEMPOS_SHORT_HEADER;
	if (payload[TEMPOS_WIDE_FLAGS_AT] >> 4 != TEMPOS_WIRE_VERSION)
		return TEMPOS_BAD_VERSION;
	if (payload[TEMPOS_WIDE_FLAGS_AT + 1] || payload[TEMPOS_WIDE_FLAGS_AT + 2] ||
	    payload[TEMPOS_WIDE_FLAGS_AT + 3])
		return TEMPOS_RESERVED_BITS;
	if (payload[TEMPOS_WIDE_FLAGS_AT] & TEMPOS_FLAG_ENVELOPE)
		return tempos_check_envelope(payload + TEMPOS_WIDE_HEADER_LEN, end, len - TEMPOS_WIDE_HEADER_LEN,
					     payload[TEMPOS_WIDE_FLAGS_AT]);
	return TEMPOS_FORWARDED;
}

#endif
