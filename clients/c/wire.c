/* SPDX-License-Identifier: Apache-2.0 */
/* Data on the wire, see tempos.h: section 2 of WIRE.md. */
#include "tempos.h"

#include <stdio.h>
#include <string.h>

#include "inside.h"

static uint16_t u16_at(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t u32_at(const uint8_t *at)
{
	return (uint32_t)u16_at(at) << 16 | u16_at(at + 2);
}

static uint64_t u64_at(const uint8_t *at)
{
	return (uint64_t)u32_at(at) << 32 | u32_at(at + 4);
}

void tempos_put(uint8_t *at, uint64_t value, size_t bytes)
{
	while (bytes--) {
		at[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

bool tempos_is_topic(uint32_t topic)
{
	return topic >= TEMPOS_TOPIC_MIN && topic <= TEMPOS_TOPIC_MAX && topic != TEMPOS_WIDE;
}

static int check_envelope(const uint8_t *at, size_t length, uint8_t flags)
{
	if (flags & TEMPOS_FLAG_BATCH || length < TEMPOS_ENVELOPE_LEN || at[0] >> 4 != TEMPOS_ENVELOPE_VERSION)
		return TEMPOS_BAD_ENVELOPE;
	switch (at[0] & 15) {
	case TEMPOS_KIND_REQUEST:
		return TEMPOS_FORWARDED;
	case TEMPOS_KIND_REPLY:
	case TEMPOS_KIND_ERROR:
		return TEMPOS_REPLY;
	}
	return TEMPOS_BAD_ENVELOPE;
}

int tempos_decode(const void *datagram, size_t length, struct tempos_event *out)
{
	const uint8_t *at = datagram;
	const uint8_t *flags_at;
	size_t header;
	int found = TEMPOS_FORWARDED;

	if (!length)
		return TEMPOS_EMPTY;
	header = at[0] == TEMPOS_WIDE ? TEMPOS_WIDE_HEADER_LEN : TEMPOS_EVENT_HEADER_LEN;
	if (length < header)
		return TEMPOS_SHORT_HEADER;
	flags_at = at[0] == TEMPOS_WIDE ? at + TEMPOS_WIDE_FLAGS_AT
					: at + offsetof(struct tempos_event_header, version_flags);
	if (*flags_at >> 4 != TEMPOS_WIRE_VERSION)
		return TEMPOS_BAD_VERSION;
	if (at[0] == TEMPOS_WIDE ? flags_at[1] || flags_at[2] || flags_at[3]
				 : at[offsetof(struct tempos_event_header, reserved)])
		return TEMPOS_RESERVED_BITS;
	out->flags = *flags_at & 15;
	out->envelope = NULL;
	out->body = at + header;
	out->length = length - header;
	if (out->flags & TEMPOS_FLAG_ENVELOPE) {
		found = check_envelope(out->body, out->length, out->flags);
		if (found == TEMPOS_BAD_ENVELOPE)
			return found;
		out->envelope = out->body;
		out->body += TEMPOS_ENVELOPE_LEN;
		out->length -= TEMPOS_ENVELOPE_LEN;
	}
	out->topic = at[0] == TEMPOS_WIDE ? u16_at(at + 1) : at[0];
	if (!tempos_is_topic(out->topic) || (at[0] == TEMPOS_WIDE && out->topic < TEMPOS_NARROW))
		return TEMPOS_RESERVED_TOPIC;
	out->epoch = at[offsetof(struct tempos_event_header, epoch)];
	out->publisher = u32_at(at + offsetof(struct tempos_event_header, publisher));
	out->sequence = u32_at(at + offsetof(struct tempos_event_header, sequence));
	out->delivery_sequence = u32_at(at + offsetof(struct tempos_event_header, delivery_sequence));
	out->sent_ns = u64_at(at + offsetof(struct tempos_event_header, sent_ns));
	return found;
}

int tempos_next_body(const struct tempos_event *event, size_t *at, const uint8_t **body, size_t *length)
{
	size_t rest;

	if (!(event->flags & TEMPOS_FLAG_BATCH)) {
		/* One body, which may be empty: `at` says whether it was given. */
		if (*at)
			return 0;
		*at = 1;
		*body = event->body;
		*length = event->length;
		return 1;
	}
	if (*at >= event->length)
		return event->length ? 0 : -1;
	rest = event->length - *at;
	if (rest < TEMPOS_BATCH_LENGTH_LEN)
		return -1;
	*length = u16_at(event->body + *at);
	if (rest - TEMPOS_BATCH_LENGTH_LEN < *length)
		return -1;
	*body = event->body + *at + TEMPOS_BATCH_LENGTH_LEN;
	*at += TEMPOS_BATCH_LENGTH_LEN + *length;
	return 1;
}

/* The first 8 bytes of this machine's boot id; they stay 0 where that is not known. */
static void put_clock(uint8_t *at)
{
	char text[40];
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	size_t length = file ? fread(text, 1, sizeof(text), file) : 0;
	unsigned int digits = 0;

	if (file)
		fclose(file);
	for (size_t i = 0; i < length && digits < 16; i++) {
		const char c = text[i];
		const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (value < 0)
			continue;
		at[digits / 2] = (uint8_t)(at[digits / 2] << 4 | value);
		digits++;
	}
}

size_t tempos_report(uint8_t *datagram, const struct tempos_event *probe, uint64_t received_ns, uint32_t ip,
		     uint16_t port, const char *group)
{
	uint8_t *envelope = datagram + (probe->envelope - datagram), *body = envelope + TEMPOS_ENVELOPE_LEN;
	const size_t name = strlen(group);
	size_t room;

	if (probe->length < TEMPOS_PROBE_LEN || body[0] != TEMPOS_PROBE_VERSION_1)
		return 0;
	room = probe->length - TEMPOS_PROBE_LEN;
	if (room > UINT8_MAX)
		room = UINT8_MAX;
	/* A name that does not fit is cut in front of a character, not inside of one. */
	if (name < room)
		room = name;
	while (room && room < name && (group[room] & 0xc0) == 0x80)
		room--;
	envelope[0] = TEMPOS_ENVELOPE_VERSION << 4 | TEMPOS_KIND_REPLY;
	memset(body + TEMPOS_PROBE_MARKS_LEN, 0, TEMPOS_PROBE_LEN - TEMPOS_PROBE_MARKS_LEN);
	put_clock(body + offsetof(struct tempos_probe, clock));
	tempos_put(body + offsetof(struct tempos_probe, received_ns), received_ns, 8);
	memcpy(body + offsetof(struct tempos_probe, ip), &ip, sizeof(ip));
	tempos_put(body + offsetof(struct tempos_probe, port), port, 2);
	body[offsetof(struct tempos_probe, group_len)] = (uint8_t)room;
	memcpy(body + TEMPOS_PROBE_LEN, group, room);
	return (size_t)(body - datagram) + TEMPOS_PROBE_LEN + room;
}

size_t tempos_put_id(uint8_t *at, uint16_t topic)
{
	at[0] = topic < TEMPOS_NARROW ? (uint8_t)topic : TEMPOS_WIDE;
	if (topic >= TEMPOS_NARROW)
		tempos_put(at + 1, topic, 2);
	return topic < TEMPOS_NARROW ? 1 : TEMPOS_WIDE_ID_LEN;
}

size_t tempos_encode(void *out, size_t room, uint16_t topic, uint32_t publisher, uint32_t sequence, uint64_t sent_ns,
		     uint8_t flags, const void *body, size_t length)
{
	const uint8_t version_flags = TEMPOS_WIRE_VERSION << 4 | (flags & 15);
	const bool wide = topic >= TEMPOS_NARROW;
	const size_t header = wide ? TEMPOS_WIDE_HEADER_LEN : TEMPOS_EVENT_HEADER_LEN;
	uint8_t *at = out;

	if (!tempos_is_topic(topic) || room < header || room - header < length)
		return 0;
	memset(at, 0, header);
	tempos_put_id(at, topic);
	at[wide ? TEMPOS_WIDE_FLAGS_AT : offsetof(struct tempos_event_header, version_flags)] = version_flags;
	tempos_put(at + offsetof(struct tempos_event_header, publisher), publisher, 4);
	tempos_put(at + offsetof(struct tempos_event_header, sequence), sequence, 4);
	tempos_put(at + offsetof(struct tempos_event_header, sent_ns), sent_ns, 8);
	if (length)
		memcpy(at + header, body, length);
	return header + length;
}
