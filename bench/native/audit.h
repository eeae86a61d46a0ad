// SPDX-License-Identifier: Apache-2.0
/*
 * Receives for all members of all groups of a topic at once, and holds every byte and every number of what
 * comes against what one of them must get. Included by traffic.c.
 */
#ifndef TEMPOS_BENCH_AUDIT_H
#define TEMPOS_BENCH_AUDIT_H

/* Marks a number in a map; whether it is new and below `end`. */
static int mark(uint8_t *map, uint64_t number, uint64_t end)
{
	if (number >= end || map[number / 8] & 1 << number % 8)
		return 0;
	map[number / 8] |= 1 << number % 8;
	return 1;
}

static int is_intact(const uint8_t *payload, unsigned int len, const struct tempos_audit_plan *plan)
{
	struct tempos_event_header header;
	uint32_t sequence;

	if (len != plan->size || len < sizeof(header))
		return 0;
	memcpy(&header, payload, sizeof(header));
	if (header.topic != plan->topic || header.version_flags != TEMPOS_WIRE_VERSION << 4 || header.reserved ||
	    header.epoch != plan->epoch || header.publisher != htonl(plan->publisher))
		return 0;
	sequence = ntohl(header.sequence);
	for (unsigned int at = sizeof(header); at < len; at++)
		if (payload[at] != body_byte(sequence, at))
			return 0;
	return 1;
}

static void audit(const uint8_t *payload, unsigned int len, const struct tempos_audit_plan *plan,
		  struct tempos_audit_member *member, uint8_t *sequences, uint8_t *deliveries)
{
	struct tempos_event_header header;

	member->received++;
	if (!is_intact(payload, len, plan)) {
		member->damaged++;
		return;
	}
	memcpy(&header, payload, sizeof(header));
	member->repeated += !mark(sequences, ntohl(header.sequence), plan->events);
	member->redelivered += !mark(deliveries, ntohl(header.delivery_sequence), member->share);
}

int tempos_audit(const int *fds, struct tempos_audit_member *members, unsigned int count,
		 const struct tempos_audit_plan *plan, uint8_t *sequences, uint8_t *deliveries, uint64_t row)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	struct pollfd polls[TEMPOS_AUDIT_SOCKETS + 1];
	struct batch batch;
	struct watch watch;
	uint64_t received = 0;
	unsigned int s;

	if (!count || count > TEMPOS_AUDIT_SOCKETS)
		return -EINVAL;
	batch_of_buffers(&batch, buffers, DATAGRAM_MAX, BATCH);
	watch = watch_over(polls, fds, count, -1, plan->first_ns / MILLISECOND, plan->idle_ns / MILLISECOND);
	while (received < plan->expected) {
		int ready = next_round(&watch);

		if (ready <= 0)
			return ready;
		while (next_ready(&watch, &s)) {
			int n = receive_batch(fds[s], &batch, MSG_DONTWAIT);

			if (n < 0)
				return n;
			for (int i = 0; i < n; i++)
				audit(buffers[i], batch.messages[i].msg_len, plan, &members[s],
				      sequences + members[s].group * row, deliveries + s * row);
			received += n;
		}
		if (received)
			end_when_idle(&watch);
	}
	return 0;
}

#endif
