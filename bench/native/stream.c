// SPDX-License-Identifier: Apache-2.0
/*
 * Raw generators for other brokers' protocols, and for ours in the same terms: the client libraries taken
 * out of the picture. What stands around a body on the wire is prepared in Python, once; here frames are
 * laid out in a buffer once and then only get their marks (send time, sequence) before they are sent.
 *
 * Rules: all frames of a plan have one length, so no protocol is known here; whatever else comes is one
 * of the plan's asides or ends the loop with the bytes that were not understood. The time of arrival is
 * the program's, after the call that read the bytes: a stream knows no other for its events. No
 * allocation, no output, no policy. A loop that a signal interrupts returns -EINTR.
 */
#include "stream.h"

/* A publisher's side of the stream: nothing but asides. */
static int hear_asides(struct member *member, const struct tempos_talk *talk, struct tempos_send_result *result)
{
	unsigned int at = 0;
	int n = fill(member);

	if (n <= 0)
		return n;
	while (at < member->used) {
		const struct tempos_aside *aside = aside_at(member->buffer + at, member->used - at, talk);

		if (!aside)
			return not_understood(member->buffer + at, member->used - at, result->foreign,
					      &result->foreign_len);
		if (member->used - at < aside->len)
			break;
		answer(member, aside->answer, aside->answer_len);
		result->acknowledged += aside->acknowledges;
		at += aside->len;
	}
	consume(member, at);
	return send_answers(member);
}

static int push_stream(struct member *member, const struct tempos_talk *talk, const uint8_t *bytes, size_t len,
		       struct tempos_send_result *result)
{
	while (len) {
		ssize_t n = send(member->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0) {
			bytes += n;
			len -= n;
		} else if (errno == EAGAIN) {
			struct pollfd wait = { .fd = member->fd, .events = POLLIN | POLLOUT };
			int error;

			if (poll(&wait, 1, -1) < 0)
				return -errno;
			error = wait.revents & POLLIN ? hear_asides(member, talk, result) : 0;
			if (error < 0)
				return error;
		} else {
			return -errno;
		}
	}
	return hear_asides(member, talk, result);
}

/* Datagrams of `unit` bytes each; `unit` 0: one, or a buffer that the kernel cuts. */
static int push_datagrams(int fd, uint8_t *bytes, size_t len, size_t unit, struct tempos_send_result *result)
{
	unsigned int count = 0;
	struct batch out;

	for (size_t at = 0; at < len; at += out.parts[count++].iov_len)
		out.parts[count] = (struct iovec){ bytes + at, unit ? unit : len };
	batch_of_parts(&out, count);
	return send_batch(fd, &out, count, &result->refused);
}

static int wait_for_asides(struct member *member, const struct tempos_talk *talk, struct tempos_send_result *result,
			   int timeout_ms)
{
	struct pollfd wait = { .fd = member->fd, .events = POLLIN };
	int ready = poll(&wait, 1, timeout_ms);

	if (ready <= 0)
		return ready < 0 ? -errno : 0;
	return hear_asides(member, talk, result);
}

/* What is left to be acknowledged must not come as a surprise to the next one who sends. */
static int hear_the_rest(struct member *member, const struct tempos_talk *talk, struct tempos_send_result *result)
{
	while (result->acknowledged < result->sent) {
		uint64_t before = result->acknowledged;
		int error = wait_for_asides(member, talk, result, 2000);

		if (error < 0)
			return error;
		if (result->acknowledged == before)
			return -ETIMEDOUT;
	}
	return 0;
}

static int check_send(const struct tempos_send_plan *plan)
{
	const struct tempos_frame *frame = &plan->talk.frame;
	unsigned int most = plan->talk.datagrams ? GSO_MAX : BUFFER;

	if (frame->body_len < TEMPOS_MARK_LEN || !plan->events || !plan->units ||
	    plan->talk.count > TEMPOS_STREAM_ASIDES || (uint64_t)plan->units * unit_len(plan) > most)
		return -EINVAL;
	if (plan->talk.datagrams && (plan->units > BATCH || plan->count % plan->events || frame->tail_len ||
				     (frame->head_len && frame->head_len != LENGTH_LEN) ||
				     (!frame->head_len && plan->events != 1)))
		return -EINVAL;
	return 0;
}

/* How many events may be sent now, at most `room`; waits for the next unit of a schedule to be whole. */
static uint64_t due(const struct tempos_send_plan *plan, uint64_t began_ns, uint64_t sent, uint64_t room)
{
	uint64_t next_ns, now_ns, ready;

	if (!plan->interval_ns)
		return room;
	next_ns = began_ns + (sent + plan->events - 1) * plan->interval_ns;
	now_ns = clock_ns(CLOCK_MONOTONIC);
	if (now_ns < next_ns) {
		sleep_until(next_ns);
		now_ns = clock_ns(CLOCK_MONOTONIC);
		if (now_ns < next_ns)
			return 0;
	}
	ready = (now_ns - next_ns) / plan->interval_ns + plan->events;
	ready -= ready % plan->events;
	return ready < room ? ready : room;
}

int tempos_stream_send(int fd, const struct tempos_send_plan *plan, struct tempos_send_result *result)
{
	static struct member member;
	static uint8_t buffer[BUFFER];
	unsigned int capacity = plan->events * plan->units;
	/* A schedule is kept by the clock that nobody sets, and written down by the one that others have. */
	uint64_t began_ns, wall_shift_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
	int error = check_send(plan);
	int segment = plan->gso ? (int)unit_len(plan) : 0;

	if (error)
		return error;
	if (plan->talk.datagrams && setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment)) && segment)
		return -errno;
	memset(result, 0, sizeof(*result));
	member.fd = fd;
	member.used = member.answered = 0;
	lay_out(buffer, plan, capacity);
	if (plan->begin_ns)
		sleep_until(plan->begin_ns - wall_shift_ns);
	began_ns = plan->begin_ns ? plan->begin_ns - wall_shift_ns : clock_ns(CLOCK_MONOTONIC);
	result->began_ns = began_ns + wall_shift_ns;

	while (result->sent < plan->count) {
		uint64_t left = plan->count - result->sent, room = capacity < left ? capacity : left, now_ns;
		uint64_t n, wall_ns;

		now_ns = clock_ns(CLOCK_MONOTONIC);
		if (plan->limit_ns && now_ns - began_ns >= plan->limit_ns && now_ns > began_ns)
			break;
		if (plan->window) {
			uint64_t unheard = result->sent - result->acknowledged;

			if (unheard >= plan->window) {
				error = wait_for_asides(&member, &plan->talk, result, 1000);
				if (error < 0)
					return error;
				continue;
			}
			if (plan->window - unheard < room)
				room = plan->window - unheard;
		}
		n = due(plan, began_ns, result->sent, room);
		/* A signal woke us: it is for the caller to handle. */
		if (!n)
			return -EINTR;
		now_ns = clock_ns(CLOCK_MONOTONIC);
		wall_ns = clock_ns(CLOCK_REALTIME);
		for (uint64_t i = 0; i < n; i++) {
			uint64_t sequence = result->sent + i;
			uint64_t when_ns = plan->interval_ns ? began_ns + sequence * plan->interval_ns : now_ns;

			stamp(frame_at(buffer, plan, i), &plan->talk, sequence, when_ns + wall_shift_ns);
			if (plan->talk.datagrams && i % plan->events == 0)
				stamp_unit(buffer + i / plan->events * unit_len(plan), plan, sequence, wall_ns);
			if (now_ns > when_ns && now_ns - when_ns > result->latest_ns)
				result->latest_ns = now_ns - when_ns;
		}
		if (plan->talk.datagrams)
			error = push_datagrams(fd, buffer, n / plan->events * unit_len(plan),
					       plan->gso ? 0 : unit_len(plan), result);
		else
			error = push_stream(&member, &plan->talk, buffer, n * frame_len(&plan->talk.frame), result);
		if (error < 0)
			return error;
		result->sent += n;
	}
	result->ended_ns = clock_ns(CLOCK_MONOTONIC) + wall_shift_ns;
	return plan->window ? hear_the_rest(&member, &plan->talk, result) : 0;
}

static int echo(const uint8_t *body, const struct tempos_receive_plan *plan)
{
	static uint8_t unit[DATAGRAM_MAX];
	static struct member back;
	static struct tempos_send_result ignored;
	const struct tempos_send_plan *out = plan->echo;
	uint8_t *frame = frame_at(unit, out, 0);
	uint32_t sequence;

	if (unit_len(out) > sizeof(unit))
		return -EINVAL;
	memcpy(&sequence, body + 8, sizeof(sequence));
	lay_out(unit, out, 1);
	stamp(frame, &out->talk, ntohl(sequence), 0);
	memcpy(frame + out->talk.frame.head_len, body, out->talk.frame.body_len);
	if (back.fd != plan->echo_fd)
		back.fd = plan->echo_fd, back.used = back.answered = 0;
	if (!out->talk.datagrams)
		return push_stream(&back, &out->talk, unit, unit_len(out), &ignored);
	stamp_unit(unit, out, ntohl(sequence), clock_ns(CLOCK_REALTIME));
	return push_datagrams(plan->echo_fd, unit, unit_len(out), 0, &ignored);
}

/* One body. `now_ns` is when the program had it. */
static int account(const uint8_t *body, unsigned int who, uint64_t now_ns, const struct tempos_receive_plan *plan,
		   struct tempos_receive_result *result)
{
	uint64_t wire_ns, sent_ns, waited_ns;
	uint32_t wire[2], sequence;

	memcpy(&wire_ns, body, sizeof(wire_ns));
	memcpy(wire, body + sizeof(wire_ns), sizeof(wire));
	sent_ns = be64toh(wire_ns);
	sequence = ntohl(wire[0]);
	if (ntohl(wire[1]) != plan->talk.run) {
		result->stale++;
		return 0;
	}
	if (sequence >= plan->seen_bits || plan->seen[sequence / 8] & 1 << sequence % 8) {
		result->repeated++;
		return 0;
	}
	plan->seen[sequence / 8] |= 1 << sequence % 8;
	if (!result->received)
		result->first_ns = now_ns;
	result->last_ns = now_ns;
	if (result->received < plan->room) {
		waited_ns = now_ns > sent_ns ? now_ns - sent_ns : 0;
		plan->latency_ns[result->received] = waited_ns < UINT32_MAX ? waited_ns : UINT32_MAX;
	}
	result->received++;
	result->by_member[who]++;
	return plan->echo_fd < 0 ? 0 : echo(body, plan);
}

/* Whether this may become a frame; all of it is one where `len` is enough. */
static int is_frame(const uint8_t *at, unsigned int len, const struct tempos_frame *frame)
{
	if (!frame->id_at)
		return begins_so(at, len, frame->head, frame->head_len);
	if (!begins_so(at, len, frame->head, frame->id_at))
		return 0;
	return len <= frame->id_at + 2u ||
	       begins_so(at + frame->id_at + 2, len - frame->id_at - 2, frame->head + frame->id_at + 2,
			 frame->head_len - frame->id_at - 2);
}

static void give_receipt(struct member *member, const uint8_t *frame, const struct tempos_talk *talk)
{
	uint8_t receipt[16];

	if (!talk->receipt_len || talk->receipt_len > sizeof(receipt))
		return;
	memcpy(receipt, talk->receipt, talk->receipt_len);
	memcpy(receipt + talk->receipt_id_at, frame + talk->frame.id_at, 2);
	answer(member, receipt, talk->receipt_len);
}

static int take_stream(struct member *member, unsigned int who, const struct tempos_receive_plan *plan,
		       struct tempos_receive_result *result)
{
	const struct tempos_frame *frame = &plan->talk.frame;
	unsigned int whole = frame_len(frame), at = 0;
	int n = fill(member);
	uint64_t now_ns;

	if (n <= 0)
		return n;
	now_ns = clock_ns(CLOCK_REALTIME);
	while (at < member->used) {
		const uint8_t *here = member->buffer + at;
		unsigned int left = member->used - at;
		const struct tempos_aside *aside;
		int error;

		if (is_frame(here, left, frame)) {
			if (left < whole)
				break;
			give_receipt(member, here, &plan->talk);
			error = account(here + frame->head_len, who, now_ns, plan, result);
			if (error < 0)
				return error;
			at += whole;
			continue;
		}
		aside = aside_at(here, left, &plan->talk);
		if (!aside)
			return not_understood(here, left, result->foreign, &result->foreign_len);
		if (left < aside->len)
			break;
		answer(member, aside->answer, aside->answer_len);
		at += aside->len;
	}
	consume(member, at);
	return send_answers(member);
}

static int take_unit(const uint8_t *unit, unsigned int len, unsigned int who, uint64_t now_ns,
		     const struct tempos_receive_plan *plan, struct tempos_receive_result *result)
{
	unsigned int body_len = plan->talk.frame.body_len, at = TEMPOS_EVENT_HEADER_LEN;
	struct tempos_event_header header;

	if (len < at) {
		result->damaged++;
		return 0;
	}
	memcpy(&header, unit, sizeof(header));
	if (!(header.version_flags & TEMPOS_FLAG_BATCH)) {
		if (len == at + body_len)
			return account(unit + at, who, now_ns, plan, result);
		result->damaged++;
		return 0;
	}
	while (at < len) {
		unsigned int length = at + LENGTH_LEN <= len ? unit[at] << 8 | unit[at + 1] : 0;
		int error;

		if (length != body_len || at + LENGTH_LEN + length > len) {
			result->damaged++;
			return 0;
		}
		error = account(unit + at + LENGTH_LEN, who, now_ns, plan, result);
		if (error < 0)
			return error;
		at += LENGTH_LEN + length;
	}
	return 0;
}

static unsigned int segment_of(struct msghdr *message, unsigned int len)
{
	int size;

	return read_control(message, SOL_UDP, UDP_GRO, &size, sizeof(size)) && size > 0 ? (unsigned int)size : len;
}

static int take_datagrams(int fd, unsigned int who, const struct tempos_receive_plan *plan,
			  struct tempos_receive_result *result)
{
	static uint8_t buffers[CALLS][1 << 16];
	static union control controls[CALLS];
	struct batch batch;
	uint64_t now_ns;
	int n;

	batch_of_buffers(&batch, buffers, sizeof(buffers[0]), CALLS);
	ask_for_controls(&batch, controls);
	n = receive_batch(fd, &batch, MSG_DONTWAIT);
	if (n < 0)
		return n;
	now_ns = clock_ns(CLOCK_REALTIME);
	for (int i = 0; i < n; i++) {
		unsigned int len = batch.messages[i].msg_len, step = segment_of(&batch.messages[i].msg_hdr, len);

		for (unsigned int at = 0; at < len; at += step) {
			int error = take_unit(buffers[i] + at, len - at < step ? len - at : step, who, now_ns, plan,
					      result);

			if (error < 0)
				return error;
		}
	}
	return n;
}

static int check_receive(const struct tempos_receive_plan *plan, unsigned int members)
{
	if (!members || members > TEMPOS_STREAM_MEMBERS || plan->talk.frame.body_len < TEMPOS_MARK_LEN ||
	    plan->talk.count > TEMPOS_STREAM_ASIDES || frame_len(&plan->talk.frame) > BUFFER)
		return -EINVAL;
	return 0;
}

static int take(struct member *member, unsigned int who, const struct tempos_receive_plan *plan,
		struct tempos_receive_result *result)
{
	return plan->talk.datagrams ? take_datagrams(member->fd, who, plan, result) :
				      take_stream(member, who, plan, result);
}

static int open_member(struct member *member, int fd, const struct tempos_talk *talk)
{
	int on = 1;

	member->fd = fd;
	member->used = member->answered = 0;
	if (talk->datagrams && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on)))
		return -errno;
	return 0;
}

int tempos_stream_receive(const int *fds, unsigned int members, const struct tempos_receive_plan *plan,
			  struct tempos_receive_result *result)
{
	static struct member all[TEMPOS_STREAM_MEMBERS];
	struct pollfd polls[TEMPOS_STREAM_MEMBERS + 1];
	int ready, error = check_receive(plan, members);
	struct watch watch;
	unsigned int who;

	if (error)
		return error;
	memset(result, 0, sizeof(*result));
	for (unsigned int i = 0; i < members; i++) {
		error = open_member(&all[i], fds[i], &plan->talk);
		if (error)
			return error;
	}
	watch = watch_over(polls, fds, members, plan->end_fd, -1, plan->idle_ns / MILLISECOND);
	while ((ready = next_round(&watch)) > 0)
		while (next_ready(&watch, &who)) {
			error = take(&all[who], who, plan, result);
			if (error < 0)
				return error;
		}
	return ready;
}

int tempos_stream_ping(int out_fd, int in_fd, const struct tempos_send_plan *plan,
		       const struct tempos_receive_plan *back, uint64_t timeout_ns, uint32_t *samples,
		       uint64_t *answered, struct tempos_receive_result *result)
{
	static struct member out, in;
	static uint8_t unit[DATAGRAM_MAX];
	struct tempos_send_result asides;
	int error = check_send(plan);

	*answered = 0;
	memset(result, 0, sizeof(*result));
	memset(&asides, 0, sizeof(asides));
	if (!error)
		error = check_receive(back, 1);
	if (!error && (plan->events != 1 || unit_len(plan) > sizeof(unit)))
		error = -EINVAL;
	if (!error)
		error = open_member(&out, out_fd, &plan->talk);
	if (!error)
		error = open_member(&in, in_fd, &back->talk);
	if (error)
		return error;
	lay_out(unit, plan, 1);
	for (uint64_t sequence = 0; sequence < plan->count; sequence++) {
		uint64_t before = result->received, began_ns = clock_ns(CLOCK_REALTIME);

		stamp(frame_at(unit, plan, 0), &plan->talk, sequence, began_ns);
		if (plan->talk.datagrams) {
			stamp_unit(unit, plan, sequence, clock_ns(CLOCK_REALTIME));
			error = push_datagrams(out_fd, unit, unit_len(plan), 0, &asides);
		} else {
			error = push_stream(&out, &plan->talk, unit, unit_len(plan), &asides);
		}
		asides.sent++;
		while (error >= 0 && result->received == before) {
			struct pollfd wait = { .fd = in_fd, .events = POLLIN };
			int ready = poll(&wait, 1, timeout_ns / MILLISECOND);

			if (ready < 0)
				return -errno;
			if (!ready)
				return 0;
			error = take(&in, 0, back, result);
		}
		if (error < 0)
			return error;
		samples[(*answered)++] = (uint32_t)(result->last_ns - began_ns);
	}
	return plan->window ? hear_the_rest(&out, &plan->talk, &asides) : 0;
}
