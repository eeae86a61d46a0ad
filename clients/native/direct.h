/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that reads a step's data socket itself: what the invoker and it have in common (functions.cdef).
 *
 *     numbers   struct tempos_direct; each has one writer
 *     datagrams a ring: each is received where it then lies, with its length, by one system call
 *
 * So whatever left the socket lies where the invoker finds it, whenever the worker is killed. A datagram is
 * the worker's to carry out only if nothing about it is the invoker's business: one event, of the topic that
 * this turn is for. All else the worker leaves to the invoker and wakes it.
 *
 * An alarm (timerfd) wakes the invoker a while after something came that it has not taken, and at once where
 * the ring fills up. What the invoker reads here another process has written: it is checked.
 */
#ifndef TEMPOS_DIRECT_H
#define TEMPOS_DIRECT_H

#include "worker.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <abi.h>

#define DIRECT_SLOTS TEMPOS_DIRECT_SLOTS
#define DIRECT_RING (1u << 20)
#define DIRECT_LARGEST 65536u
#define DIRECT_FULL UINT32_MAX
/* How long what came may be unknown to the invoker, and how long a worker waits for room. */
#define DIRECT_UNKNOWN_NS 40000000
#define DIRECT_ROOM_MS 1
/* Where they come one at a time, to look for another one before waiting is for nothing: that is left out for so many. */
#define DIRECT_ALONE 127

/* One datagram in the ring. */
struct direct_entry {
	struct mmsghdr message; /* the kernel writes the length here; the worker has made it 0 before */
	uint64_t received_ns;
	uint32_t called;
	uint32_t unused;
	uint8_t data[];
};

struct direct_memory {
	struct tempos_direct numbers;
	uint32_t at[DIRECT_SLOTS]; /* where in the ring each lies */
	uint8_t ring[DIRECT_RING] __attribute__((aligned(64)));
};

struct tempos_reader {
	struct direct_memory *memory;
	uint64_t turn;
	uint64_t first;     /* datagrams that came in earlier turns */
	uint64_t kicked;    /* the last one for which the invoker was woken at once */
	uint32_t head;
	int data, calls, alarm;
	uint8_t topic;
	uint8_t alone;      /* so many more are waited for before they are received */
};

static struct direct_memory *direct_map(int descriptor)
{
	void *memory = mmap(NULL, sizeof(struct direct_memory), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static void direct_alarm(const struct tempos_reader *reader, long ns)
{
	struct itimerspec when = { .it_value.tv_nsec = ns };

	timerfd_settime(reader->alarm, 0, &when, NULL);
}

/* Where the next datagram may lie: DIRECT_FULL if there is no room for the largest one. */
static uint32_t direct_room(struct tempos_reader *reader)
{
	struct direct_memory *memory = reader->memory;
	const uint32_t need = sizeof(struct direct_entry) + DIRECT_LARGEST;
	uint64_t received = memory->numbers.received;
	uint64_t taken = __atomic_load_n(&memory->numbers.taken, __ATOMIC_ACQUIRE);
	uint32_t oldest;

	if (taken == received)
		return 0;
	if (received - taken >= DIRECT_SLOTS - 1)
		return DIRECT_FULL;
	oldest = memory->at[taken % DIRECT_SLOTS];
	if (reader->head <= oldest)
		return oldest - reader->head > need ? reader->head : DIRECT_FULL;
	if (DIRECT_RING - reader->head >= need)
		return reader->head;
	return oldest > need ? 0 : DIRECT_FULL;
}

static int direct_is_plain(const struct tempos_reader *reader, const uint8_t *data, uint32_t length)
{
	return length >= TEMPOS_EVENT_HEADER_LEN && data[0] == reader->topic && !data[2] &&
	       (data[1] & ~(TEMPOS_FLAG_DUP | TEMPOS_FLAG_TRACE)) == TEMPOS_WIRE_VERSION << 4;
}

static void direct_tell(struct tempos_datagram *found, const struct direct_entry *entry, uint32_t length)
{
	struct tempos_event_header head = { 0 };

	if (length >= sizeof(head))
		memcpy(&head, entry->data, sizeof(head));
	*found = (struct tempos_datagram){
		.received_ns = entry->received_ns,
		.sent_ns = be64toh(head.sent_ns),
		.publisher = be32toh(head.publisher),
		.sequence = be32toh(head.sequence),
		.length = length,
		.called = entry->called,
		.data = entry->data,
	};
}

/* 1: received, 0: nothing is there, -errno. */
static int direct_receive(struct tempos_reader *reader, uint32_t at, struct tempos_datagram *found)
{
	struct direct_memory *memory = reader->memory;
	struct direct_entry *entry = (struct direct_entry *)(memory->ring + at);
	uint64_t number = memory->numbers.received;
	struct iovec part = { .iov_base = entry->data, .iov_len = DIRECT_LARGEST };
	struct timespec now;
	uint32_t length;
	int got;

	memset(&entry->message, 0, sizeof(entry->message));
	entry->message.msg_hdr.msg_iov = &part;
	entry->message.msg_hdr.msg_iovlen = 1;
	memory->at[number % DIRECT_SLOTS] = at;
	/* Who asks this back looks at `receives` after it has taken the turn away, and this the other way round. */
	__atomic_store_n(&memory->numbers.receives, number + 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&memory->numbers.turn, __ATOMIC_SEQ_CST) != reader->turn)
		got = 0;
	else
		got = recvmmsg(reader->data, &entry->message, 1, MSG_DONTWAIT, NULL);
	if (got != 1) {
		got = got < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
		__atomic_store_n(&memory->numbers.receives, 0, __ATOMIC_SEQ_CST);
		return got;
	}
	length = entry->message.msg_len;
	clock_gettime(CLOCK_REALTIME, &now);
	entry->received_ns = now.tv_sec * 1000000000ull + now.tv_nsec;
	entry->called = direct_is_plain(reader, entry->data, length);
	reader->head = at + ((sizeof(*entry) + length + 63) & ~63u);
	direct_tell(found, entry, length);
	found->number = number - reader->first;
	__atomic_store_n(&memory->numbers.received, number + 1, __ATOMIC_SEQ_CST);
	return 1;
}

/* Have the invoker know of what came in time. */
static void direct_wake(struct tempos_reader *reader, int called)
{
	struct direct_memory *memory = reader->memory;
	uint64_t received = memory->numbers.received;
	uint64_t taken = __atomic_load_n(&memory->numbers.taken, __ATOMIC_ACQUIRE);

	if (!called || (received - taken >= DIRECT_SLOTS / 2 && received - reader->kicked >= DIRECT_SLOTS / 4)) {
		reader->kicked = received;
		direct_alarm(reader, 1);
	} else if (received - taken == 1) {
		direct_alarm(reader, DIRECT_UNKNOWN_NS);
	}
}

/* 1: `found` is to be carried out, 0: look at the other socket, -errno. */
static int direct_next(struct tempos_reader *reader, struct tempos_datagram *found)
{
	for (;;) {
		uint32_t at = direct_room(reader);
		int full = at == DIRECT_FULL, waited = full || reader->alone, got;

		if (full)
			direct_alarm(reader, 1);
		if (waited) {
			struct pollfd both[] = {
				{ .fd = reader->calls, .events = POLLIN },
				{ .fd = reader->data, .events = POLLIN },
			};

			if (poll(both, full ? 1 : 2, full ? DIRECT_ROOM_MS : -1) < 0 && errno != EINTR)
				return -errno;
			if (both[0].revents)
				return 0;
			if (!both[1].revents)
				continue;
			reader->alone--;
		}
		got = direct_receive(reader, at, found);
		if (got < 0)
			return got;
		if (got) {
			direct_wake(reader, found->called);
			if (found->called)
				return 1;
		} else if (__atomic_load_n(&reader->memory->numbers.turn, __ATOMIC_RELAXED) != reader->turn) {
			return 0;
		} else if (!waited) {
			reader->alone = DIRECT_ALONE;
		}
	}
}

/* What the invoker does. */

/* Datagram `number`, counted through all turns; `pending`: it may be the one that was being received. */
static int direct_look(const struct direct_memory *memory, uint64_t number, int pending, struct tempos_datagram *found)
{
	uint32_t at = memory->at[number % DIRECT_SLOTS], length;
	const struct direct_entry *entry;

	if (at % 64 || at > DIRECT_RING - sizeof(*entry))
		return -EBADMSG;
	entry = (const struct direct_entry *)(memory->ring + at);
	length = *(volatile const uint32_t *)&entry->message.msg_len;
	if (length > DIRECT_LARGEST || length > DIRECT_RING - sizeof(*entry) - at)
		return -EBADMSG;
	direct_tell(found, entry, length);
	if (pending) {
		found->called = 0;
		found->received_ns = 0;
	}
	return 0;
}

/*
 * How many datagrams from `number` on, those below `end`, are plain events of a publisher and an epoch, each the next
 * one of both; 0: not one, -EBADMSG.
 */
static int direct_run(const struct direct_memory *memory, uint64_t number, uint64_t end, uint8_t topic,
		      struct tempos_run *run)
{
	struct tempos_event_header head;
	struct tempos_datagram found;
	int count = 0;

	*run = (struct tempos_run){ 0 };
	for (; number < end && count < (int)DIRECT_SLOTS; number++, count++) {
		if (direct_look(memory, number, 0, &found))
			return -EBADMSG;
		if (!found.called || found.length < sizeof(head))
			break;
		memcpy(&head, found.data, sizeof(head));
		if (head.topic != topic || head.version_flags != TEMPOS_WIRE_VERSION << 4 || head.reserved)
			break;
		if (!count) {
			run->epoch = head.epoch;
			run->publisher = found.publisher;
			run->sequence = found.sequence;
			run->delivery = be32toh(head.delivery_sequence);
		} else if (head.epoch != run->epoch || found.publisher != run->publisher ||
			   found.sequence != run->sequence + count ||
			   be32toh(head.delivery_sequence) != run->delivery + count) {
			break;
		}
		run->bytes += found.length;
	}
	return count;
}

#endif
