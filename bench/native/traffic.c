// SPDX-License-Identifier: Apache-2.0
/*
 * The hot loops of the three-node harness: sending, counting, answering, forwarding datagrams fast
 * enough that what is measured is what stands between them.
 *
 * Rules: no allocation, no output, no policy; sockets are made, bound and connected in Python. A loop
 * that a signal interrupts returns -EINTR, so that Python's handler runs.
 */
#include "batch.h"

#include <signal.h>

#include "traffic.cdef"

static unsigned int header_len(uint8_t framing)
{
	return framing == TEMPOS_FRAMING_EVENT ? TEMPOS_EVENT_HEADER_LEN : RAW_HEADER_LEN;
}

static void write_datagram(uint8_t *to, const struct tempos_blast_plan *plan, uint32_t sequence, uint64_t sent_ns)
{
	unsigned int at = header_len(plan->framing);

	if (plan->framing == TEMPOS_FRAMING_EVENT) {
		write_event_header(to, plan->topic, plan->publisher, sequence, sent_ns);
	} else {
		uint32_t wire = htonl(sequence);

		to[0] = plan->topic;
		memcpy(to + 1, &wire, sizeof(wire));
	}
	for (; at < plan->size; at++)
		to[at] = body_byte(sequence, at);
}

static uint32_t read_sequence(const uint8_t *from, uint8_t framing)
{
	uint32_t wire;

	memcpy(&wire, from + (framing == TEMPOS_FRAMING_EVENT ? 8 : 1), sizeof(wire));
	return ntohl(wire);
}

/* How many datagrams are due by now, at most `room`. Waits when none is. */
static unsigned int due(const struct tempos_blast_plan *plan, uint64_t began_ns, uint64_t sent, unsigned int room)
{
	uint64_t next, now, ready;

	if (!plan->interval_ns)
		return room;
	next = began_ns + sent * plan->interval_ns;
	now = clock_ns(CLOCK_MONOTONIC);
	if (now < next) {
		sleep_until(next);
		now = clock_ns(CLOCK_MONOTONIC);
		if (now < next)
			return 0;
	}
	ready = (now - next) / plan->interval_ns + 1;
	return ready < room ? ready : room;
}

/* What one of several sockets sends before it is the next one's turn. */
#define TURN 4

static volatile sig_atomic_t ending;

static void end(int signal)
{
	(void)signal;
	ending = 1;
}

int tempos_end_on_sigterm(void)
{
	struct sigaction action = { .sa_handler = end };

	return sigaction(SIGTERM, &action, NULL) ? -errno : 0;
}

int tempos_blast(const int *fds, unsigned int count, const struct tempos_blast_plan *plan,
		 struct tempos_blast_result *result)
{
	static uint8_t buffers[BATCH * DATAGRAM_MAX];
	unsigned int segments = plan->segments ? plan->segments : 1;
	unsigned int most = count > 1 ? TURN : BATCH;
	unsigned int batch = most / segments ? most / segments : 1;
	unsigned int turn = 0;
	struct batch out;
	uint64_t sent = 0;

	if (!count || plan->size < header_len(plan->framing) || plan->size > DATAGRAM_MAX || segments > BATCH ||
	    (unsigned int)plan->size * segments > GSO_MAX)
		return -EINVAL;
	for (unsigned int i = 0; segments > 1 && i < count; i++) {
		int size = plan->size;

		if (setsockopt(fds[i], SOL_UDP, UDP_SEGMENT, &size, sizeof(size)))
			return -errno;
	}
	batch_of_parts(&out, BATCH);
	memset(result, 0, sizeof(*result));
	result->began_ns = clock_ns(CLOCK_MONOTONIC);
	while (sent < plan->count && !ending) {
		uint64_t left = plan->count - sent;
		unsigned int room = batch * segments < left ? batch * segments : left;
		unsigned int ready = due(plan, result->began_ns, sent, room);
		unsigned int used = 0, done = 0;
		uint64_t wall_ns = clock_ns(CLOCK_REALTIME);

		if (plan->limit_ns && clock_ns(CLOCK_MONOTONIC) - result->began_ns >= plan->limit_ns)
			break;
		for (unsigned int i = 0; i < ready; i++)
			write_datagram(buffers + i * plan->size, plan, plan->first + sent + i, wall_ns);
		for (unsigned int at = 0; at < ready; at += segments, used++) {
			unsigned int here = ready - at < segments ? ready - at : segments;

			out.parts[used] = (struct iovec){ buffers + at * plan->size, here * plan->size };
		}
		while (done < used) {
			int n = sendmmsg(fds[turn], out.messages + done, used - done, 0);

			if (n < 0 && !is_transient(errno) && errno != EINTR)
				return -errno;
			if (n < 0)
				result->refused += errno != EINTR;
			else
				done += n;
		}
		turn = ready ? (turn + 1) % count : turn;
		sent += ready;
		result->sent = sent;
	}
	result->ended_ns = clock_ns(CLOCK_MONOTONIC);
	return 0;
}

enum finding { INTACT, DAMAGED, REPEATED };

static enum finding examine(const uint8_t *payload, unsigned int len, const struct tempos_sink_plan *plan,
			    uint8_t *seen)
{
	unsigned int at = header_len(plan->framing);
	uint32_t sequence;

	if (len != plan->size || len < at)
		return DAMAGED;
	sequence = read_sequence(payload, plan->framing);
	for (; at < len; at++)
		if (payload[at] != body_byte(sequence, at))
			return DAMAGED;
	if (!plan->seen_bits)
		return INTACT;
	if (sequence >= plan->seen_bits || seen[sequence / 8] & 1 << sequence % 8)
		return REPEATED;
	seen[sequence / 8] |= 1 << sequence % 8;
	return INTACT;
}

static void account(const uint8_t *payload, unsigned int len, const struct tempos_sink_plan *plan, uint8_t *seen,
		    struct tempos_sink_result *result)
{
	enum finding finding = examine(payload, len, plan, seen);

	if (len)
		result->by_topic[payload[0]]++;
	result->damaged += finding == DAMAGED;
	result->repeated += finding == REPEATED;
}

int tempos_sink(const int *fds, unsigned int count, const struct tempos_sink_plan *plan, uint8_t *seen,
		struct tempos_sink_result *result)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	struct pollfd polls[TEMPOS_TRAFFIC_SOCKETS + 1];
	struct batch batch;
	struct watch watch;
	unsigned int s;

	if (!count || count > TEMPOS_TRAFFIC_SOCKETS)
		return -EINVAL;
	memset(result, 0, sizeof(*result));
	batch_of_buffers(&batch, buffers, DATAGRAM_MAX, BATCH);
	watch = watch_over(polls, fds, count, -1, plan->first_ns / MILLISECOND, plan->idle_ns / MILLISECOND);
	while (!plan->expected || result->received < plan->expected) {
		int ready = next_round(&watch);

		if (ready <= 0)
			return ready;
		while (next_ready(&watch, &s)) {
			int n = receive_batch(fds[s], &batch, MSG_DONTWAIT);

			if (n < 0)
				return n;
			if (!n)
				continue;
			result->last_ns = clock_ns(CLOCK_MONOTONIC);
			if (!result->received)
				result->first_ns = result->last_ns;
			result->received += n;
			result->by_socket[s] += n;
			for (int i = 0; i < n; i++)
				account(buffers[i], batch.messages[i].msg_len, plan, seen, result);
		}
		if (result->received)
			end_when_idle(&watch);
	}
	return 0;
}

#include "audit.h"

static void account_epoch(uint8_t epoch, struct tempos_collect_result *result)
{
	uint8_t ahead = epoch - result->epoch;

	/* The number of a new epoch was that of one 256 ago: what was counted then is long told. */
	if (ahead && ahead < 128)
		while (result->epoch != epoch)
			result->by_epoch[++result->epoch] = 0;
	result->by_epoch[epoch]++;
}

/* Takes all that waits at a socket, without waiting for more. */
int tempos_collect(int fd, const struct tempos_sink_plan *plan, uint8_t *seen, struct tempos_collect_result *result)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	struct batch batch;
	int n = BATCH;

	batch_of_buffers(&batch, buffers, DATAGRAM_MAX, BATCH);
	while (n == BATCH) {
		n = receive_batch(fd, &batch, MSG_DONTWAIT);
		if (n < 0)
			return n;
		result->received += n;
		for (int i = 0; i < n; i++) {
			enum finding finding = examine(buffers[i], batch.messages[i].msg_len, plan, seen);

			result->damaged += finding == DAMAGED;
			result->repeated += finding == REPEATED;
			if (finding == INTACT)
				account_epoch(buffers[i][3], result);
		}
	}
	return 0;
}

/* Answers every datagram: to its sender, or to `reply_ip` where it is not 0; `topic` < 0 leaves the topic. */
int tempos_echo(int fd, uint32_t reply_ip, uint16_t reply_port, int topic)
{
	uint8_t buffer[DATAGRAM_MAX];

	for (;;) {
		struct sockaddr_in to;
		socklen_t len = sizeof(to);
		ssize_t n = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&to, &len);

		if (n < 0) {
			if (errno == ECONNREFUSED)
				continue;
			return -errno;
		}
		if (n && topic >= 0)
			buffer[0] = topic;
		if (reply_ip) {
			to.sin_addr.s_addr = htonl(reply_ip);
			to.sin_port = htons(reply_port);
		}
		if (sendto(fd, buffer, n, 0, (struct sockaddr *)&to, sizeof(to)) < 0 && !is_transient(errno))
			return -errno;
	}
}

/* One datagram at a time; `samples` takes the round trip of each answered one, in order. */
int tempos_ping(int fd, uint32_t ip, uint16_t port, const struct tempos_blast_plan *plan, uint64_t timeout_ns,
		uint64_t *samples, uint64_t *answered)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(ip), .sin_port = htons(port) };
	struct timeval timeout = { .tv_sec = timeout_ns / SECOND, .tv_usec = timeout_ns % SECOND / 1000 };
	uint8_t out[DATAGRAM_MAX], in[DATAGRAM_MAX];
	uint64_t first = clock_ns(CLOCK_MONOTONIC);

	*answered = 0;
	if (plan->size < header_len(plan->framing) || plan->size > DATAGRAM_MAX)
		return -EINVAL;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)))
		return -errno;
	for (uint32_t sequence = 0; sequence < plan->count; sequence++) {
		uint64_t began;
		ssize_t n;

		if (plan->interval_ns)
			sleep_until(first + sequence * plan->interval_ns);
		write_datagram(out, plan, sequence, clock_ns(CLOCK_REALTIME));
		began = clock_ns(CLOCK_MONOTONIC);
		if (sendto(fd, out, plan->size, 0, (struct sockaddr *)&to, sizeof(to)) < 0 && !is_transient(errno))
			return -errno;
		do {
			n = recv(fd, in, sizeof(in), 0);
		} while (n == plan->size && read_sequence(in, plan->framing) != sequence);
		if (n == plan->size)
			samples[(*answered)++] = clock_ns(CLOCK_MONOTONIC) - began;
		else if (n < 0 && !is_transient(errno))
			return -errno;
	}
	return 0;
}

/* Sends the first `n` messages, whatever becomes of each. */
static int send_all(int fd, struct mmsghdr *messages, int n, struct tempos_forward_result *result)
{
	for (int done = 0; done < n;) {
		int sent = sendmmsg(fd, messages + done, n - done, 0);

		if (sent < 0 && errno == EINTR)
			return -EINTR;
		if (sent < 0) {
			result->refused++;
			done++;
			continue;
		}
		result->sent += sent;
		done += sent;
	}
	return 0;
}

static struct sockaddr_in *endpoints(const uint32_t *ips, const uint16_t *ports, unsigned int count)
{
	static struct sockaddr_in to[TEMPOS_FORWARD_MEMBERS];

	if (!count || count > TEMPOS_FORWARD_MEMBERS)
		return NULL;
	memset(to, 0, sizeof(to));
	for (unsigned int i = 0; i < count; i++) {
		to[i].sin_family = AF_INET;
		to[i].sin_addr.s_addr = htonl(ips[i]);
		to[i].sin_port = htons(ports[i]);
	}
	return to;
}

/* What a careful C programmer would write: one batch in, the same batch out, members in turn. */
int tempos_forward(int fd, const uint32_t *ips, const uint16_t *ports, unsigned int members,
		   struct tempos_forward_result *result)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	struct sockaddr_in *to = endpoints(ips, ports, members);
	struct batch in, out;
	uint64_t ticket = 0;

	if (!to)
		return -EINVAL;
	batch_of_buffers(&in, buffers, DATAGRAM_MAX, BATCH);
	batch_of_buffers(&out, buffers, DATAGRAM_MAX, BATCH);
	for (unsigned int i = 0; i < BATCH; i++)
		out.messages[i].msg_hdr.msg_namelen = sizeof(to[0]);
	for (;;) {
		int n = receive_batch(fd, &in, MSG_WAITFORONE), error;

		if (n < 0)
			return n;
		result->received += n;
		for (int i = 0; i < n; i++) {
			out.parts[i].iov_len = in.messages[i].msg_len;
			out.messages[i].msg_hdr.msg_name = &to[ticket++ % members];
		}
		error = send_all(fd, out.messages, n, result);
		if (error)
			return error;
	}
}

/* The same, but each datagram goes to every member, by one call as far as the kernel takes them. */
int tempos_forward_to_each(int fd, const uint32_t *ips, const uint16_t *ports, unsigned int members,
			   struct tempos_forward_result *result)
{
	static uint8_t buffers[BATCH][DATAGRAM_MAX];
	static struct mmsghdr out[TEMPOS_FORWARD_MEMBERS];
	struct sockaddr_in *to = endpoints(ips, ports, members);
	struct iovec part;
	struct batch in;

	if (!to)
		return -EINVAL;
	batch_of_buffers(&in, buffers, DATAGRAM_MAX, BATCH);
	for (unsigned int i = 0; i < members; i++)
		out[i].msg_hdr = (struct msghdr){ &to[i], sizeof(to[i]), &part, 1 };
	for (;;) {
		int n = receive_batch(fd, &in, MSG_WAITFORONE), error;

		if (n < 0)
			return n;
		result->received += n;
		for (int i = 0; i < n; i++) {
			part = (struct iovec){ buffers[i], in.messages[i].msg_len };
			error = send_all(fd, out, members, result);
			if (error)
				return error;
		}
	}
}
