/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending: runs are staged group by group as messages, then flushed.
 *
 * Several groups send the same slot: each copy of an `event` topic has a header of its own in front of
 * the shared body, but the last group's, which is stamped in the slot. `raw` and `foreign` are sent as they came.
 *
 * Copies of one run for one member that have the same size and TTL travel as one message, which the kernel takes
 * through its stack once and segments at the end (UDP_SEGMENT): most of what forwarding costs is that
 * way through the stack. A message that is refused is sent again copy by copy, so that an error costs
 * only those it concerns, and where segmentation itself is what is refused, it is not tried again. A member that
 * is left out gets nothing: its copies are errors at once.
 */
#ifndef TEMPOS_BATCH_SEND_H
#define TEMPOS_BATCH_SEND_H

#include "batch_measure.h"
#include "batch_own.h"
#include "batch_probe.h"
#include "batch_types.h"

static uint8_t kernel_segments(void)
{
	int value, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(value);
	uint8_t known;

	if (fd < 0)
		return 0;
	/* A kernel that does not know the option would ignore it and send all segments as one datagram. */
	known = getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &size) == 0;
	close(fd);
	return known;
}

static void add_control(struct message *m, struct msghdr *msg, int level, int type, const void *data,
			size_t size)
{
	struct cmsghdr *c = (struct cmsghdr *)(m->control.bytes + msg->msg_controllen);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(c), data, size);
	msg->msg_controllen += CMSG_SPACE(size);
}

/* The socket that is bound to this address, or that has every address; the first where there is none such. */
static const struct channel *channel_of(const struct outbox *o, struct in_addr source)
{
	for (uint32_t i = 0; i < o->channel_count; i++)
		if (!o->channels[i].address.s_addr || o->channels[i].address.s_addr == source.s_addr)
			return &o->channels[i];
	return &o->channels[0];
}

/* Write the control messages that `m` needs by what it holds now. */
static void seal(struct message *m, struct msghdr *msg)
{
	msg->msg_control = &m->control;
	msg->msg_controllen = 0;
	if (m->raw)
		return;
	if (m->from.s_addr) {
		struct in_pktinfo info = { .ipi_spec_dst = m->from };

		add_control(m, msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
	if (m->tos >= 0)
		add_control(m, msg, IPPROTO_IP, IP_TOS, &m->tos, sizeof(m->tos));
	if (m->ttl != NO_TTL)
		add_control(m, msg, IPPROTO_IP, IP_TTL, &m->ttl, sizeof(m->ttl));
	if (m->copies > 1)
		add_control(m, msg, IPPROTO_UDP, UDP_SEGMENT, &m->segment, sizeof(m->segment));
}

/* What is left of the TTL of a datagram once it is forwarded. */
static int next_ttl(const struct slot *s)
{
	return s->ttl == NO_TTL ? NO_TTL : s->ttl - 1;
}

/*
 * Whether the datagram in `s` may travel with what `m` holds: one member, one size, one TTL, one packet's worth.
 */
static int may_join(const struct tempos_batch *b, const struct message *m, const struct slot *s)
{
	return b->segmenting && m->open && !m->raw && m->copies < MAX_SEGMENTS && s->length <= m->segment &&
	       m->bytes + s->length <= MAX_UDP_PAYLOAD && m->ttl == next_ttl(s);
}

static struct message *begin_message(const struct tempos_batch *b, struct outbox *o, const struct slot *s, uint16_t topic,
				     uint8_t epoch, uint16_t group, const struct tempos_members *members,
				     const struct member *member)
{
	const struct channel *channel = channel_of(o, member->source);
	struct msghdr *msg = &o->tx[o->end].msg_hdr;
	struct message *m = &o->messages[o->end++];

	m->to = member->to;
	m->from.s_addr = channel->address.s_addr ? 0 : member->source.s_addr;
	m->fd = channel->fd;
	m->tos = o->tos;
	m->ttl = next_ttl(s);
	m->first_copy = o->copies_end;
	m->copies = 0;
	m->bytes = 0;
	m->segment = (uint16_t)s->length;
	m->open = 1;
	m->one_by_one = 0;
	m->left_out = member->left_out;
	m->fragments = b->framing[topic] == TEMPOS_FRAMING_FOREIGN;
	m->raw = members->keep;
	m->raw_tos = o->raw_tos;
	if (m->raw)
		m->fd = b->raw;
	m->topic = topic;
	m->group = group;
	m->epoch = epoch;
	msg->msg_name = &m->to;
	msg->msg_namelen = sizeof(m->to);
	msg->msg_iov = &o->tx_iov[o->iovs_end];
	msg->msg_iovlen = 0;
	return m;
}

/* Add a copy of `slot` to the newest message, stamped if its topic is. */
static void add_copy(struct tempos_batch *b, struct outbox *o, struct message *m, uint32_t slot,
		     uint32_t delivery, int last)
{
	struct msghdr *msg = &o->tx[o->end - 1].msg_hdr;
	struct copy *copy = &o->copies[o->copies_end++];
	struct iovec *iov = &o->tx_iov[o->iovs_end];
	struct slot *s = &b->slots[slot];
	uint8_t *payload = slot_bytes(b, slot);

	copy->slot = slot;
	copy->iovs = 1;
	iov[0].iov_base = payload;
	iov[0].iov_len = s->length;
	if (m->raw) {
		own_headers(&copy->own, s, m, payload);
		iov[0].iov_base = &copy->own;
		iov[0].iov_len = sizeof(copy->own);
		iov[1].iov_base = payload;
		iov[1].iov_len = s->length;
		copy->iovs = 2;
	} else if (b->framing[m->topic] == TEMPOS_FRAMING_EVENT) {
		struct tempos_event_header *header = (struct tempos_event_header *)payload;

		if (!last) {
			header = memcpy(&copy->header, payload, sizeof(copy->header));
			iov[0].iov_base = header;
			iov[0].iov_len = sizeof(*header);
			iov[1].iov_base = payload + sizeof(*header);
			iov[1].iov_len = s->length - sizeof(*header);
			copy->iovs = 2;
		}
		header->epoch = m->epoch;
		header->delivery_sequence = htonl(delivery);
	}
	if (!last)
		s->refs++;
	o->iovs_end += copy->iovs;
	msg->msg_iovlen += copy->iovs;
	m->copies++;
	m->bytes += s->length;
	m->open = s->length == m->segment;
}

/* Stage the first `count` slots of the chain for a group that picks by the source. */
static void stage_by_source(struct tempos_batch *b, struct outbox *o, uint16_t topic, uint32_t count,
			    const struct tempos_members *members, uint8_t epoch, uint16_t group, int last)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct sockaddr_in *from = &b->slots[b->chain[i]].from;

		b->picked[i] = members->slots[tempos_spread_slot(from->sin_addr.s_addr, from->sin_port, members->pick)];
		members->drawn[b->picked[i]]++;
	}
	for (uint32_t place = 0; place < members->count; place++) {
		struct message *m = NULL;

		for (uint32_t i = 0; i < count; i++) {
			const struct slot *s = &b->slots[b->chain[i]];

			if (b->picked[i] != place)
				continue;
			if (!m || !may_join(b, m, s)) {
				if (m)
					seal(m, &o->tx[o->end - 1].msg_hdr);
				m = begin_message(b, o, s, topic, epoch, group, members, &members->at[place]);
			}
			add_copy(b, o, m, b->chain[i], 0, last);
		}
		if (m)
			seal(m, &o->tx[o->end - 1].msg_hdr);
	}
}

static uint32_t tempos_batch_meant(struct tempos_batch *b, uint32_t slot, uint32_t count,
				   const struct tempos_members *members)
{
	uint32_t meant = 0;

	for (; count--; slot = b->slots[slot].next)
		meant += !members->ranges || tempos_meant(members->ranges, b->slots[slot].from.sin_addr.s_addr);
	return meant;
}

/*
 * Leave in the chain what a group's members get of its first `count`; `first`: the number of the first one that the
 * group takes, from here on which one the first is that they get.
 */
static uint32_t leave_for(struct tempos_batch *b, uint32_t count, const struct tempos_members *members, uint64_t *first,
			  int last)
{
	uint32_t every = members->every, kept = 0;
	uint64_t number = *first;

	if (!members->ranges && every <= 1)
		return count;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = b->chain[i];
		int goes = !members->ranges || tempos_meant(members->ranges, b->slots[slot].from.sin_addr.s_addr);

		if (goes && every > 1)
			goes = number++ % every == 0;
		if (goes)
			b->chain[kept++] = slot;
		else if (last)
			put_slot(b, slot);
	}
	if (every > 1)
		*first = (*first + every - 1) / every;
	return kept;
}

/* Stage `count` slots from this one on for a group; the i-th that its members take carries number `first` + i. */
static void stage_group(struct tempos_batch *b, struct outbox *o, uint16_t topic, uint32_t slot, uint32_t count,
			const struct tempos_members *members, uint64_t first, uint8_t epoch, uint16_t group, int last)
{
	uint32_t n = members->count;

	for (uint32_t i = 0; i < count; i++) {
		b->chain[i] = slot;
		if (b->slots[slot].probe)
			probe_leaves(slot_bytes(b, slot), b->slots[slot].probe);
		slot = b->slots[slot].next;
	}
	if (!group)
		measure_forwarded(b, topic, count);
	count = leave_for(b, count, members, &first, last);
	o->staged += count;
	if (members->pick) {
		stage_by_source(b, o, topic, count, members, epoch, group, last);
		return;
	}
	/* Member by member, so that what one of them gets stands together; its order stays the run's. */
	for (uint32_t turn = 0; turn < n && turn < count; turn++) {
		const struct member *member = &members->at[(first + turn) % n];
		uint64_t delivery = (first + turn) / n;
		struct message *m = NULL;

		for (uint32_t i = turn; i < count; i += n, delivery++) {
			const struct slot *s = &b->slots[b->chain[i]];

			if (!m || !may_join(b, m, s)) {
				if (m)
					seal(m, &o->tx[o->end - 1].msg_hdr);
				m = begin_message(b, o, s, topic, epoch, group, members, member);
			}
			add_copy(b, o, m, b->chain[i], (uint32_t)delivery, last);
		}
		seal(m, &o->tx[o->end - 1].msg_hdr);
	}
}

static int tempos_batch_stage(struct tempos_batch *b, uint8_t quality, uint16_t topic, uint32_t slot, uint32_t count,
			      struct tempos_members *const *groups, const uint64_t *first_tickets, uint32_t n,
			      uint32_t epoch)
{
	struct outbox *o = &b->out[quality];

	if (count > b->batch || (uint64_t)count * n > b->capacity - o->copies_end)
		return -1;
	for (uint32_t group = 0; group < n; group++)
		if (groups[group]->keep && b->raw < 0)
			return -1;
	for (uint32_t group = 0; group < n; group++)
		stage_group(b, o, topic, slot, count, groups[group], first_tickets[group], (uint8_t)epoch,
			    (uint16_t)group, group == n - 1);
	return (int)o->staged;
}

static void note_error(struct tempos_send_error *errors, uint32_t *count, const struct message *m, int error)
{
	struct tempos_send_error *e = *count ? &errors[*count - 1] : NULL;

	if (!e || e->topic != m->topic || e->group != m->group || e->epoch != m->epoch || e->error != error) {
		e = &errors[(*count)++];
		*e = (struct tempos_send_error){
			.topic = m->topic, .group = m->group, .epoch = m->epoch, .error = error,
		};
	}
	e->count++;
	e->address = m->to.sin_addr.s_addr;
	e->port = m->to.sin_port;
	e->size = m->segment;
}

/*
 * The first copies of the first message are done with, sent or lost, or (`given_up`) not even tried; so is the message if
 * none is left.
 */
static void drop_copies(struct tempos_batch *b, struct outbox *o, uint32_t count, int given_up)
{
	struct message *m = &o->messages[o->first];
	struct msghdr *msg = &o->tx[o->first].msg_hdr;
	int timed = b->timed && !given_up;
	/* All that is in a message was received together. */
	uint64_t taken_ns = b->slots[o->copies[m->first_copy].slot].taken_ns;
	uint32_t last = 0;

	o->staged -= count;
	m->copies -= count;
	if (b->receipts)
		__atomic_store_n(&b->receipts->gone, b->receipts->gone + count, __ATOMIC_RELEASE);
	while (count--) {
		const struct copy *copy = &o->copies[m->first_copy++];

		msg->msg_iov += copy->iovs;
		msg->msg_iovlen -= copy->iovs;
		if (timed && b->slots[copy->slot].refs == 1) {
			measure_since_sent(b, m->topic, copy->slot);
			last++;
		}
		put_slot(b, copy->slot);
	}
	measure_inside(b, m->topic, taken_ns, last);
	if (m->copies)
		seal(m, msg);
	else
		o->first++;
}

/* Send a datagram that is too large for the way in fragments, which the socket sends at no other time; as send_one. */
static int send_in_fragments(int fd, const struct msghdr *one)
{
	const int allowed = IP_PMTUDISC_DONT, usual = IP_PMTUDISC_DO;
	int error = 0;

	if (setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &allowed, sizeof(allowed)) < 0)
		return EMSGSIZE;
	while (sendmsg(fd, one, MSG_DONTWAIT) < 0) {
		if (errno != EINTR) {
			error = errno;
			break;
		}
	}
	setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &usual, sizeof(usual));
	return error;
}

/* Send the first copy of a message that was refused as a whole; its error, or 0. */
static int send_one(struct outbox *o)
{
	struct message *m = &o->messages[o->first];
	struct msghdr one = o->tx[o->first].msg_hdr;
	uint32_t copies = m->copies;
	int error = 0;

	m->copies = 1;
	seal(m, &one);
	m->copies = copies;
	one.msg_iovlen = o->copies[m->first_copy].iovs;
	while (sendmsg(m->fd, &one, MSG_DONTWAIT) < 0) {
		if (errno != EINTR) {
			error = errno;
			break;
		}
	}
	if (error != EMSGSIZE || !m->fragments)
		return error;
	return m->raw ? send_own_fragments(m->fd, &one) : send_in_fragments(m->fd, &one);
}

/* Whether this error can mean that the kernel or the way to the member cannot segment. */
static int is_about_segments(int error)
{
	return error == EIO || error == EINVAL || error == EOPNOTSUPP || error == ENOPROTOOPT;
}

static int would_block(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK;
}

static void all_gone(struct outbox *o)
{
	o->first = o->end = o->copies_end = o->iovs_end = 0;
}

#define SOME_LEFT (-2)

static uint64_t flushed(uint32_t error_count, int blocked_by)
{
	return (uint64_t)error_count << 32 | (uint32_t)(blocked_by + 1);
}

/* What waits for the next member of a group goes to no address that anybody could have (0.0.0.0/8). */
static int is_nobody(const struct sockaddr_in *to)
{
	return !(ntohl(to->sin_addr.s_addr) >> 24);
}

/* What sending a message takes, in what one copy more in it takes: most of it is the way through the stack. */
#define MESSAGE_COST 8

static uint64_t tempos_batch_flush(struct tempos_batch *b, uint8_t quality, uint32_t most,
				   struct tempos_send_error *errors)
{
	struct outbox *o = &b->out[quality];
	uint32_t error_count = 0, spent = 0;
	int refusal = 0;

	while (o->first < o->end) {
		struct message *m = &o->messages[o->first];
		uint32_t stop = o->first + 1;
		int sent;

		if (m->left_out) {
			/* What waits for its neighbour in the kernel would take the room of all others. */
			for (uint32_t i = 0; i < m->copies && !is_nobody(&m->to); i++)
				note_error(errors, &error_count, m, EHOSTUNREACH);
			drop_copies(b, o, m->copies, 1);
			continue;
		}
		if (spent && spent + MESSAGE_COST + m->copies > most)
			return flushed(error_count, SOME_LEFT);
		if (m->one_by_one) {
			spent += MESSAGE_COST;
			int error = send_one(o);

			if (would_block(error))
				return flushed(error_count, m->fd);
			if (error)
				note_error(errors, &error_count, m, error);
			/* What needs fragments is refused together whatever the kernel can do. */
			else if (is_about_segments(refusal) && !m->fragments)
				b->segmenting = 0;
			it_is_now(b);
			drop_copies(b, o, 1, 0);
			continue;
		}
		spent += MESSAGE_COST + m->copies;
		while (stop < o->end && o->messages[stop].fd == m->fd && !o->messages[stop].left_out &&
		       spent + MESSAGE_COST + o->messages[stop].copies <= most)
			spent += MESSAGE_COST + o->messages[stop++].copies;
		sent = sendmmsg(m->fd, &o->tx[o->first], stop - o->first, MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (would_block(errno))
				return flushed(error_count, m->fd);
			/* An error is always that of the first message. */
			refusal = errno;
			if (m->copies > 1 || (refusal == EMSGSIZE && m->fragments)) {
				m->one_by_one = 1;
			} else {
				note_error(errors, &error_count, m, refusal);
				it_is_now(b);
				drop_copies(b, o, 1, 0);
			}
			continue;
		}
		it_is_now(b);
		while (sent--)
			drop_copies(b, o, o->messages[o->first].copies, 0);
	}
	all_gone(o);
	return flushed(error_count, -1);
}

static uint32_t tempos_batch_abandon(struct tempos_batch *b, uint8_t quality, int error,
				     struct tempos_send_error *errors)
{
	struct outbox *o = &b->out[quality];
	uint32_t error_count = 0;

	while (o->first < o->end) {
		note_error(errors, &error_count, &o->messages[o->first], error);
		drop_copies(b, o, 1, 1);
	}
	all_gone(o);
	return error_count;
}

#endif
