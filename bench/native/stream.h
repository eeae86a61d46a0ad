/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sending and receiving of prepared frames share: where they lie in a buffer, the marks in them, and
 * one connection with what was read of it.
 */
#ifndef TEMPOS_BENCH_STREAM_H
#define TEMPOS_BENCH_STREAM_H

#include "batch.h"
#include "stream.cdef"

#define BUFFER TEMPOS_STREAM_BUFFER
#define CALLS 16
#define LENGTH_LEN 2

/* One connection: what was read and not understood yet. */
struct member {
	int fd;
	uint32_t used;
	uint8_t buffer[BUFFER];
	uint8_t answers[BUFFER];
	uint32_t answered;
};

static unsigned int frame_len(const struct tempos_frame *frame)
{
	return frame->head_len + frame->body_len + frame->tail_len;
}

static unsigned int unit_len(const struct tempos_send_plan *plan)
{
	unsigned int events = plan->events * frame_len(&plan->talk.frame);

	return plan->talk.datagrams ? TEMPOS_EVENT_HEADER_LEN + events : events;
}

/* Where the frame of event `n` of the buffer begins. */
static uint8_t *frame_at(uint8_t *buffer, const struct tempos_send_plan *plan, unsigned int n)
{
	uint8_t *unit = buffer + n / plan->events * unit_len(plan);

	return unit + (plan->talk.datagrams ? TEMPOS_EVENT_HEADER_LEN : 0) +
	       n % plan->events * frame_len(&plan->talk.frame);
}

static void lay_out(uint8_t *buffer, const struct tempos_send_plan *plan, unsigned int events)
{
	const struct tempos_frame *frame = &plan->talk.frame;

	for (unsigned int n = 0; n < events; n++) {
		uint8_t *at = frame_at(buffer, plan, n);

		memcpy(at, frame->head, frame->head_len);
		for (unsigned int i = TEMPOS_MARK_LEN; i < frame->body_len; i++)
			at[frame->head_len + i] = body_byte(0, i);
		memcpy(at + frame->head_len + frame->body_len, frame->tail, frame->tail_len);
	}
}

static void stamp(uint8_t *frame, const struct tempos_talk *talk, uint32_t sequence, uint64_t sent_ns)
{
	uint64_t wire_ns = htobe64(sent_ns);
	uint32_t wire[2] = { htonl(sequence), htonl(talk->run) };
	uint8_t *mark = frame + talk->frame.head_len;

	memcpy(mark, &wire_ns, sizeof(wire_ns));
	memcpy(mark + sizeof(wire_ns), wire, sizeof(wire));
	if (talk->frame.id_at) {
		/* Packet ids are 1 to 65535. */
		uint16_t id = htons(sequence % 65535 + 1);

		memcpy(frame + talk->frame.id_at, &id, sizeof(id));
	}
}

static void stamp_unit(uint8_t *unit, const struct tempos_send_plan *plan, uint32_t sequence, uint64_t wall_ns)
{
	write_event_header(unit, plan->talk.topic, plan->talk.publisher, sequence, wall_ns);
	if (plan->talk.frame.head_len)
		unit[1] |= TEMPOS_FLAG_BATCH;
}

static int not_understood(const uint8_t *at, unsigned int len, uint8_t *foreign, uint32_t *foreign_len)
{
	*foreign_len = len < TEMPOS_STREAM_FOREIGN ? len : TEMPOS_STREAM_FOREIGN;
	memcpy(foreign, at, *foreign_len);
	return -EPROTO;
}

static int begins_so(const uint8_t *at, unsigned int len, const uint8_t *head, unsigned int head_len)
{
	return !memcmp(at, head, len < head_len ? len : head_len);
}

/* The aside that begins here, as far as can be seen; NULL if it is none. */
static const struct tempos_aside *aside_at(const uint8_t *at, unsigned int len, const struct tempos_talk *talk)
{
	for (unsigned int i = 0; i < talk->count; i++)
		if (begins_so(at, len, talk->asides[i].head, talk->asides[i].head_len))
			return &talk->asides[i];
	return NULL;
}

static void answer(struct member *member, const uint8_t *bytes, unsigned int len)
{
	if (member->answered + len <= sizeof(member->answers)) {
		memcpy(member->answers + member->answered, bytes, len);
		member->answered += len;
	}
}

/* More of a stream; 0 if there is none now. */
static int fill(struct member *member)
{
	ssize_t n = recv(member->fd, member->buffer + member->used, BUFFER - member->used, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (!n)
		return -EPIPE;
	member->used += n;
	return n;
}

static void consume(struct member *member, unsigned int bytes)
{
	member->used -= bytes;
	if (bytes && member->used)
		memmove(member->buffer, member->buffer + bytes, member->used);
}

static int send_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n < 0)
			return -errno;
		bytes += n;
		len -= n;
	}
	return 0;
}

static int send_answers(struct member *member)
{
	int error = send_all(member->fd, member->answers, member->answered);

	member->answered = 0;
	return error;
}

#endif
