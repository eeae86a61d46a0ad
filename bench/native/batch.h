/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams by the batch, and the watch over several sockets until nothing comes any more.
 *
 * Rules: the caller owns all memory, and nothing is done here for each datagram. Functions return a
 * negative errno where the kernel has an error that does not pass; a signal is one (-EINTR).
 */
#ifndef TEMPOS_BENCH_BATCH_H
#define TEMPOS_BENCH_BATCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#include "datagram.h"

#define BATCH 64

/* What one call hands over: messages of one part each. */
struct batch {
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	unsigned int count;
};

/* Room for what the kernel says about a datagram: when it came, or the size of its segments. */
union control {
	char bytes[CMSG_SPACE(sizeof(struct timespec))];
	struct cmsghdr aligned;
};

/* Messages whose parts the caller fills in, before or after. */
static inline void batch_of_parts(struct batch *batch, unsigned int count)
{
	memset(batch->messages, 0, count * sizeof(batch->messages[0]));
	for (unsigned int i = 0; i < count; i++) {
		batch->messages[i].msg_hdr.msg_iov = &batch->parts[i];
		batch->messages[i].msg_hdr.msg_iovlen = 1;
	}
	batch->count = count;
}

/* Messages that have a buffer of `room` bytes each, one behind the other. */
static inline void batch_of_buffers(struct batch *batch, void *buffers, size_t room, unsigned int count)
{
	batch_of_parts(batch, count);
	for (unsigned int i = 0; i < count; i++)
		batch->parts[i] = (struct iovec){ (uint8_t *)buffers + i * room, room };
}

/* To be asked anew before each call that receives: the kernel leaves there how much it has used. */
static inline void ask_for_controls(struct batch *batch, union control *controls)
{
	for (unsigned int i = 0; i < batch->count; i++) {
		batch->messages[i].msg_hdr.msg_control = &controls[i];
		batch->messages[i].msg_hdr.msg_controllen = sizeof(controls[i]);
	}
}

/* Whether the kernel said this about a datagram, and what. */
static inline int read_control(struct msghdr *message, int level, int type, void *value, size_t len)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
		if (part->cmsg_level != level || part->cmsg_type != type)
			continue;
		memcpy(value, CMSG_DATA(part), len);
		return 1;
	}
	return 0;
}

/* How many datagrams came; 0 for an error that passes. */
static inline int receive_batch(int fd, struct batch *batch, int flags)
{
	int n = recvmmsg(fd, batch->messages, batch->count, flags, NULL);

	return n >= 0 ? n : is_transient(errno) ? 0 : -errno;
}

/* Sends the first `count`, each until the kernel takes it; `refused` counts how often it did not. */
static inline int send_batch(int fd, struct batch *batch, unsigned int count, uint64_t *refused)
{
	for (unsigned int done = 0; done < count;) {
		int n = sendmmsg(fd, batch->messages + done, count - done, 0);

		if (n < 0 && !is_transient(errno))
			return -errno;
		if (n < 0)
			++*refused;
		else
			done += n;
	}
	return 0;
}

/*
 * A watch over sockets: it lasts as long as something comes within `wait_ms` (-1: without an end), and
 * after end_when_idle() within `idle_ms`. Once `end_fd` can be read it does that itself (-1: there is none).
 */
struct watch {
	struct pollfd *polls; /* of the sockets, and of end_fd behind them */
	unsigned int sockets, at;
	int wait_ms, idle_ms;
};

static inline struct watch watch_over(struct pollfd *polls, const int *fds, unsigned int sockets, int end_fd,
				      int wait_ms, int idle_ms)
{
	for (unsigned int i = 0; i < sockets; i++)
		polls[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	polls[sockets] = (struct pollfd){ .fd = end_fd, .events = POLLIN };
	return (struct watch){ polls, sockets, sockets, wait_ms, idle_ms };
}

static inline void end_when_idle(struct watch *watch)
{
	watch->wait_ms = watch->idle_ms;
}

/* Waits for a round of sockets that have something; 0 once nothing comes any more. */
static inline int next_round(struct watch *watch)
{
	struct pollfd *end = &watch->polls[watch->sockets];
	int ready = poll(watch->polls, watch->sockets + 1, watch->wait_ms);

	watch->at = 0;
	if (ready > 0 && end->revents) {
		end->fd = -1;
		end_when_idle(watch);
	}
	return ready < 0 ? -errno : ready;
}

/* Whether there is one more socket in this round, and which. */
static inline int next_ready(struct watch *watch, unsigned int *socket)
{
	while (watch->at < watch->sockets) {
		*socket = watch->at++;
		if (watch->polls[*socket].revents)
			return 1;
	}
	return 0;
}

#endif
