/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring buffers, read without a call of Python for each record: they come in one piece of memory, all of the same
 * length. A shorter record is filled up with zeros, a longer one cut.
 */
#ifndef TEMPOS_LIBBPF_RINGS_H
#define TEMPOS_LIBBPF_RINGS_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/libbpf.h>
#include <linux/types.h>

struct tempos_ring {
	struct ring_buffer *buffer;
	__u32 stride;
	char *out;
	__u32 room, used;
};

static int take_record(void *context, void *data, size_t size)
{
	struct tempos_ring *ring = context;
	__u32 taken = size < ring->stride ? (__u32)size : ring->stride;

	memcpy(ring->out + ring->used, data, taken);
	memset(ring->out + ring->used + taken, 0, ring->stride - taken);
	ring->used += ring->stride;
	/* A refusal ends the reading, and the record at hand counts as read. */
	return ring->used + ring->stride > ring->room ? -ENOSPC : 0;
}

static int tempos_ring_open(int map_fd, __u32 stride, struct tempos_ring **out)
{
	struct tempos_ring *ring = calloc(1, sizeof(*ring));
	int error;

	if (!ring)
		return -ENOMEM;
	ring->stride = stride;
	ring->buffer = ring_buffer__new(map_fd, take_record, ring, NULL);
	error = ring->buffer ? 0 : -errno;
	if (error) {
		free(ring);
		ring = NULL;
	}
	*out = ring;
	return error;
}

/* To be waited for: readable when a program woke the reader. */
static int tempos_ring_fd(const struct tempos_ring *ring)
{
	return ring_buffer__epoll_fd(ring->buffer);
}

/* Reads what there is, as long as there is room for it; gives the bytes. */
static int tempos_ring_read(struct tempos_ring *ring, char *out, __u32 room)
{
	int result;

	if (room < ring->stride)
		return -EINVAL;
	ring->out = out;
	ring->room = room;
	ring->used = 0;
	result = ring_buffer__consume(ring->buffer);
	return result < 0 && result != -ENOSPC ? result : (int)ring->used;
}

static void tempos_ring_close(struct tempos_ring *ring)
{
	ring_buffer__free(ring->buffer);
	free(ring);
}

#endif
