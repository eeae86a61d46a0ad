// SPDX-License-Identifier: Apache-2.0
/*
 * Sending by a schedule and recording how long each event was on its way.
 *
 * Rules: the send time in an event is its schedule's, so an event that leaves late because its sender
 * was held up counts as late (no coordinated omission); by how much is written into its body. The time
 * of arrival is the kernel's, taken when the packet reaches the receiving node's stack (SO_TIMESTAMPNS):
 * how soon the receiving program gets a turn on a shared core is recorded apart from it. No allocation,
 * no output, no policy. A loop that a signal interrupts returns -EINTR.
 */
#include "batch.h"
#include "latency.cdef"

#define LEAST_LEN (TEMPOS_EVENT_HEADER_LEN + TEMPOS_LATENCY_BODY)

static uint32_t saturated(uint64_t ns)
{
	return ns < UINT32_MAX ? ns : UINT32_MAX;
}

static uint64_t due_ns(const struct tempos_pace_plan *plan, const struct tempos_lane *lane, uint64_t slot)
{
	return plan->begin_ns + lane->phase_ns + slot * lane->interval_ns;
}

/* The lane whose turn is first, or NULL if none has anything left to send. */
static struct tempos_lane *next_lane(const struct tempos_pace_plan *plan, struct tempos_lane *lanes,
				     unsigned int count, uint64_t *when_ns)
{
	struct tempos_lane *first = NULL;

	for (unsigned int i = 0; i < count; i++) {
		struct tempos_lane *lane = &lanes[i];
		uint64_t when = due_ns(plan, lane, lane->sent + lane->slipped);

		if (lane->sent == lane->count || when - plan->begin_ns > plan->length_ns)
			continue;
		if (!first || when < *when_ns) {
			first = lane;
			*when_ns = when;
		}
	}
	return first;
}

static void wait_for(uint64_t when_ns, uint64_t spin_ns)
{
	if (clock_ns(CLOCK_MONOTONIC) + spin_ns < when_ns)
		sleep_until(when_ns - spin_ns);
	while (spin_ns && clock_ns(CLOCK_MONOTONIC) < when_ns)
		;
}

/* Go on with what is due now where a lane is too far behind ever to catch up. */
static void slip(const struct tempos_pace_plan *plan, struct tempos_lane *lane, uint64_t now_ns)
{
	uint64_t when_ns = due_ns(plan, lane, lane->sent + lane->slipped);
	uint64_t over_ns = plan->begin_ns + plan->length_ns + lane->interval_ns;

	/* Nothing is due behind the end, however late it is. */
	if (now_ns > over_ns)
		now_ns = over_ns;
	if (plan->slip_ns && now_ns > when_ns + plan->slip_ns)
		lane->slipped += (now_ns - when_ns) / lane->interval_ns;
}

static int is_due(const struct tempos_pace_plan *plan, const struct tempos_lane *lane, uint64_t now_ns)
{
	uint64_t when_ns = due_ns(plan, lane, lane->sent + lane->slipped);

	return lane->sent < lane->count && when_ns - plan->begin_ns <= plan->length_ns && when_ns <= now_ns;
}

static void write_event(uint8_t *to, const struct tempos_pace_plan *plan, struct tempos_lane *lane, uint64_t now_ns)
{
	uint64_t when_ns = due_ns(plan, lane, lane->sent + lane->slipped);
	uint64_t late_ns = now_ns - when_ns;
	uint32_t wire = htonl(saturated(late_ns));

	write_event_header(to, lane->topic, lane->publisher, lane->sent, plan->wall_ns + (when_ns - plan->begin_ns));
	memcpy(to + TEMPOS_EVENT_HEADER_LEN, &wire, sizeof(wire));
	for (unsigned int at = LEAST_LEN; at < plan->size; at++)
		to[at] = body_byte(lane->sent, at);
	lane->sent++;
	lane->late_ns += late_ns;
	if (late_ns > lane->latest_ns)
		lane->latest_ns = late_ns;
}

/*
 * One buffer of events of one lane that are due, at most `room`; how many. A buffer never mixes lanes:
 * whoever tells topics apart by the first byte of a buffer (a socket selector does) must be right.
 */
static unsigned int write_run(uint8_t *to, const struct tempos_pace_plan *plan, struct tempos_lane *lane,
			      unsigned int room, uint64_t now_ns)
{
	unsigned int n = 0;

	slip(plan, lane, now_ns);
	for (; n < room && is_due(plan, lane, now_ns); n++)
		write_event(to + n * plan->size, plan, lane, now_ns);
	return n;
}

int tempos_pace(int fd, const struct tempos_pace_plan *plan, struct tempos_lane *lanes, unsigned int count,
		struct tempos_pace_result *result)
{
	static uint8_t buffers[BATCH * DATAGRAM_MAX];
	unsigned int segments = plan->segments ? plan->segments : 1;
	int segment_size = segments > 1 ? plan->size : 0;
	struct batch out;
	struct tempos_lane *lane;
	uint64_t when_ns = 0;

	if (plan->size < LEAST_LEN || plan->size > DATAGRAM_MAX || !plan->batch || plan->batch > BATCH ||
	    segments > plan->batch || (unsigned int)plan->size * segments > GSO_MAX || !count ||
	    count > TEMPOS_LATENCY_LANES)
		return -EINVAL;
	if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment_size, sizeof(segment_size)) && segment_size)
		return -errno;
	batch_of_parts(&out, BATCH);
	memset(result, 0, sizeof(*result));
	while ((lane = next_lane(plan, lanes, count, &when_ns))) {
		unsigned int ready = 0, used = 0;
		uint64_t now_ns;
		int error;

		wait_for(when_ns, plan->spin_ns);
		now_ns = clock_ns(CLOCK_MONOTONIC);
		/* A signal woke us: it is for the caller to handle. */
		if (now_ns < when_ns)
			return -EINTR;
		if (!result->began_ns)
			result->began_ns = now_ns;
		do {
			unsigned int room = plan->batch - ready < segments ? plan->batch - ready : segments;
			unsigned int n = write_run(buffers + ready * plan->size, plan, lane, room, now_ns);

			/* None: its turn slipped beyond the end of the plan. */
			if (!n)
				break;
			out.parts[used++] = (struct iovec){ buffers + ready * plan->size, n * plan->size };
			ready += n;
			lane = next_lane(plan, lanes, count, &when_ns);
		} while (ready < plan->batch && lane && when_ns <= now_ns);
		error = send_batch(fd, &out, used, &result->refused);
		if (error)
			return error;
	}
	result->ended_ns = clock_ns(CLOCK_MONOTONIC);
	return 0;
}

static struct tempos_trace *trace_of(const uint8_t *event, struct tempos_trace *traces, unsigned int count)
{
	struct tempos_event_header header;

	memcpy(&header, event, sizeof(header));
	for (unsigned int i = 0; i < count; i++)
		if (traces[i].topic == header.topic && traces[i].publisher == ntohl(header.publisher))
			return &traces[i];
	return NULL;
}

static int seen_before(struct tempos_trace *trace, uint32_t sequence)
{
	uint8_t bit = 1 << sequence % 8;

	if (sequence >= trace->seen_bits || trace->seen[sequence / 8] & bit)
		return 1;
	trace->seen[sequence / 8] |= bit;
	return 0;
}

static void record(const uint8_t *event, uint64_t arrived_ns, uint64_t taken_ns, struct tempos_trace *trace)
{
	struct tempos_event_header header;
	uint32_t sequence, late, at;
	uint64_t sent_ns;

	memcpy(&header, event, sizeof(header));
	memcpy(&late, event + TEMPOS_EVENT_HEADER_LEN, sizeof(late));
	sequence = ntohl(header.sequence);
	sent_ns = be64toh(header.sent_ns);
	if (seen_before(trace, sequence)) {
		trace->repeated++;
		return;
	}
	if (!trace->received)
		trace->first_ns = arrived_ns;
	trace->last_ns = arrived_ns;
	trace->reordered += trace->received && sequence < trace->highest;
	trace->ahead += arrived_ns < sent_ns;
	if (sequence > trace->highest)
		trace->highest = sequence;
	at = trace->received++;
	if (at >= trace->room)
		return;
	trace->transit_ns[at] = saturated(arrived_ns > sent_ns ? arrived_ns - sent_ns : 0);
	trace->taken_ns[at] = saturated(taken_ns > arrived_ns ? taken_ns - arrived_ns : 0);
	trace->late_ns[at] = ntohl(late);
	trace->arrived_us[at] = arrived_ns > trace->first_ns ? saturated((arrived_ns - trace->first_ns) / 1000) : 0;
	trace->sequence[at] = sequence;
}

static uint64_t stamp_of(struct msghdr *message)
{
	struct timespec stamp;

	if (!read_control(message, SOL_SOCKET, SCM_TIMESTAMPNS, &stamp, sizeof(stamp)))
		return 0;
	return stamp.tv_sec * SECOND + stamp.tv_nsec;
}

static void work_for(uint64_t time_ns)
{
	uint64_t end_ns = clock_ns(CLOCK_MONOTONIC) + time_ns;

	while (time_ns && clock_ns(CLOCK_MONOTONIC) < end_ns)
		;
}

int tempos_gather(const int *fds, unsigned int sockets, const struct tempos_gather_plan *plan,
		  struct tempos_trace *traces, unsigned int count, struct tempos_gather_result *result)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	static union control stamps[BATCH];
	struct pollfd polls[TEMPOS_LATENCY_SOCKETS + 1];
	struct batch batch;
	struct watch watch;
	unsigned int s;
	int ready;

	if (!sockets || sockets > TEMPOS_LATENCY_SOCKETS || plan->size < LEAST_LEN)
		return -EINVAL;
	memset(result, 0, sizeof(*result));
	batch_of_buffers(&batch, buffers, DATAGRAM_MAX, BATCH);
	for (unsigned int i = 0; i < sockets; i++) {
		int on = 1;

		if (setsockopt(fds[i], SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)))
			return -errno;
	}
	watch = watch_over(polls, fds, sockets, plan->end_fd, -1, plan->idle_ns / MILLISECOND);
	while ((ready = next_round(&watch)) > 0) {
		while (next_ready(&watch, &s)) {
			uint64_t taken_ns;
			int n;

			ask_for_controls(&batch, stamps);
			n = receive_batch(fds[s], &batch, MSG_DONTWAIT);
			if (n < 0)
				return n;
			if (!n)
				continue;
			taken_ns = clock_ns(CLOCK_REALTIME);
			result->calls++;
			for (int i = 0; i < n; i++) {
				struct tempos_trace *trace = NULL;
				uint64_t stamp_ns = stamp_of(&batch.messages[i].msg_hdr);

				if (batch.messages[i].msg_len == plan->size)
					trace = trace_of(buffers[i], traces, count);
				if (!trace) {
					result->foreign++;
					continue;
				}
				result->unstamped += !stamp_ns;
				record(buffers[i], stamp_ns ? stamp_ns : taken_ns, taken_ns, trace);
			}
			work_for(n * plan->work_ns);
		}
	}
	return ready;
}
