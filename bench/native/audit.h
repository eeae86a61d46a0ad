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
	struct pollfd polls[TEMPOS_AUDIT_SOCKETS];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	uint64_t received = 0;

	if (!count || count > TEMPOS_AUDIT_SOCKETS)
		return -EINVAL;
	memset(messages, 0, sizeof(messages));
	for (unsigned int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ .iov_base = buffers[i], .iov_len = DATAGRAM_MAX };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (unsigned int i = 0; i < count; i++)
		polls[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	while (received < plan->expected) {
		uint64_t wait_ns = received ? plan->idle_ns : plan->first_ns;
		int ready = poll(polls, count, (int)(wait_ns / 1000000));

		if (ready < 0)
			return -errno;
		if (!ready)
			break;
		for (unsigned int s = 0; s < count; s++) {
			int n;

			if (!polls[s].revents)
				continue;
			n = recvmmsg(fds[s], messages, BATCH, MSG_DONTWAIT, NULL);
			if (n < 0 && !is_transient(errno))
				return -errno;
			for (int i = 0; i < n; i++)
				audit(buffers[i], messages[i].msg_len, plan, &members[s],
				      sequences + members[s].group * row, deliveries + s * row);
			received += n > 0 ? n : 0;
		}
	}
	return 0;
}

#endif
