/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot bytes of the slow path: receive, classify, stamp, address, send. No decision is made here:
 * Python decides once for a run of datagrams, these functions carry it out for each of them.
 *
 * A datagram lives in a slot of one pool from recvmmsg to sendmmsg and is never copied. Slots of a run
 * are chained through `next`; a slot is free again when its last reference is gone: the chain holds
 * one, and so does each staged message. The free slots are a stack, so that the warm ones are used first.
 *
 *   free --receive--> chain --stage(group 0..n-1)--> messages --flush--> free
 *                       \--release--> free
 */
#include "batch_journal.h"
#include "batch_measure.h"
#include "batch_walk.h"
#include "batch_receipts.h"
#include "batch_receive.h"
#include "batch_send.h"
#include "batch_types.h"
#include "shared.h"
#include "threads.h"
#include "ticks.h"

_Static_assert(TEMPOS_FRAMING_RAW == 0, "raw until told otherwise");

static void tempos_batch_free(struct tempos_batch *b)
{
	if (!b)
		return;
	free(b->framing);
	free(b->sources);
	free(b->measured);
	free(b->run_of);
	free(b->bytes);
	free(b->slots);
	free(b->free);
	free(b->own_rx);
	free(b->rx_iov);
	free(b->rx_from);
	free(b->rx_control);
	free(b->rx_slot);
	free(b->run_tail);
	for (int q = 0; q < TEMPOS_QUALITIES; q++) {
		free(b->out[q].tx);
		free(b->out[q].tx_iov);
		free(b->out[q].messages);
		free(b->out[q].copies);
	}
	free(b->chain);
	free(b->picked);
	free(b);
}

/* Whether there is memory for `copies` staged at most. */
static int make_outbox(struct outbox *o, uint32_t copies)
{
	o->tx = calloc(copies, sizeof(*o->tx));
	o->tx_iov = calloc(copies, 2 * sizeof(*o->tx_iov));
	o->messages = calloc(copies, sizeof(*o->messages));
	o->copies = calloc(copies, sizeof(*o->copies));
	return o->tx && o->tx_iov && o->messages && o->copies;
}

static struct tempos_batch *tempos_batch_new(uint32_t slots, uint32_t slot_bytes, uint32_t batch,
					     uint32_t copies)
{
	struct tempos_batch *b = calloc(1, sizeof(*b));
	int complete = 1;

	if (!b)
		return NULL;
	/*
	 * An odd number of cache lines: with a power of two every header would fall into the same few
	 * sets of the cache.
	 */
	b->stride = ((slot_bytes + CACHE_LINE - 1) / CACHE_LINE | 1) * CACHE_LINE;
	b->batch = batch;
	b->rx_used = batch;
	b->capacity = copies;
	b->framing = calloc(TEMPOS_IDS, sizeof(*b->framing));
	b->sources = calloc(TEMPOS_IDS, sizeof(*b->sources));
	b->measured = calloc(TEMPOS_IDS, sizeof(*b->measured));
	b->run_of = calloc(TEMPOS_IDS, sizeof(*b->run_of));
	b->bytes = aligned_alloc(CACHE_LINE, (size_t)slots * b->stride);
	b->slots = calloc(slots, sizeof(*b->slots));
	b->free = calloc(slots, sizeof(*b->free));
	b->rx = b->own_rx = calloc(batch, sizeof(*b->rx));
	b->rx_iov = calloc(batch, sizeof(*b->rx_iov));
	b->rx_from = calloc(batch, sizeof(*b->rx_from));
	b->rx_control = calloc(batch, sizeof(*b->rx_control));
	b->rx_slot = calloc(batch, sizeof(*b->rx_slot));
	b->run_tail = calloc(batch, sizeof(*b->run_tail));
	b->chain = calloc(batch, sizeof(*b->chain));
	b->picked = calloc(batch, sizeof(*b->picked));
	for (int q = 0; q < TEMPOS_QUALITIES; q++)
		complete &= make_outbox(&b->out[q], copies);
	if (!complete || !b->framing || !b->sources || !b->measured || !b->run_of || !b->bytes || !b->slots || !b->free || !b->rx || !b->rx_iov || !b->rx_from ||
	    !b->rx_control || !b->rx_slot || !b->run_tail || !b->chain || !b->picked) {
		tempos_batch_free(b);
		return NULL;
	}
	for (uint32_t i = slots; i-- > 0;)
		b->free[b->free_count++] = i;
	for (uint32_t i = 0; i < batch; i++) {
		b->rx_slot[i] = NO_SLOT;
		b->rx_iov[i].iov_len = slot_bytes;
		b->rx[i].msg_hdr.msg_iov = &b->rx_iov[i];
		b->rx[i].msg_hdr.msg_iovlen = 1;
		b->rx[i].msg_hdr.msg_control = &b->rx_control[i];
	}
	b->segmenting = kernel_segments();
	b->raw = -1;
	return b;
}

static void tempos_batch_clock(struct tempos_batch *b, const uint8_t *clock)
{
	memcpy(b->clock, clock, sizeof(b->clock));
}

static void tempos_batch_framing(struct tempos_batch *b, uint16_t topic, uint8_t framing)
{
	b->framing[topic] = framing;
}

static void tempos_batch_sources(struct tempos_batch *b, uint16_t topic, const uint32_t *networks,
				 const uint32_t *masks, uint32_t count)
{
	struct sources *sources = &b->sources[topic];

	if (count > TEMPOS_MAX_SOURCES)
		count = TEMPOS_MAX_SOURCES;
	b->restricted += (count > 0) - (sources->count > 0);
	sources->count = count;
	/* What stands ready to receive was made ready for the topics as they were. */
	b->rx_used = b->batch;
	for (uint32_t i = 0; i < count; i++) {
		sources->network[i] = networks[i];
		sources->mask[i] = masks[i];
	}
}

static void tempos_batch_channels(struct tempos_batch *b, uint8_t quality, const int *fds,
				  const uint32_t *addresses, uint32_t count, int tos)
{
	struct outbox *o = &b->out[quality];

	if (count > TEMPOS_MAX_LISTEN)
		count = TEMPOS_MAX_LISTEN;
	for (uint32_t i = 0; i < count; i++)
		o->channels[i] = (struct channel){ .fd = fds[i], .address.s_addr = addresses[i] };
	o->channel_count = count;
	o->tos = tos;
}

static void tempos_batch_raw(struct tempos_batch *b, int fd)
{
	b->raw = fd;
}

static void tempos_batch_raw_tos(struct tempos_batch *b, uint8_t quality, uint8_t tos)
{
	b->out[quality].raw_tos = tos;
}

static uint32_t tempos_batch_refused_source(struct tempos_batch *b, uint16_t topic)
{
	return b->sources[topic].refused;
}

static struct tempos_members *tempos_members_new(const uint32_t *addresses, const uint16_t *ports,
						 const uint32_t *sources, const uint8_t *left_out,
						 uint32_t count)
{
	struct tempos_members *members = calloc(1, sizeof(*members) + count * sizeof(members->at[0]));

	if (!members)
		return NULL;
	members->count = count;
	for (uint32_t i = 0; i < count; i++) {
		members->at[i].to.sin_family = AF_INET;
		members->at[i].to.sin_addr.s_addr = addresses[i];
		members->at[i].to.sin_port = ports[i];
		members->at[i].source.s_addr = sources[i];
		members->at[i].left_out = left_out[i];
	}
	return members;
}

static int tempos_members_spread(struct tempos_members *members, uint8_t pick, const uint16_t *slots)
{
	members->slots = calloc(TEMPOS_SPREAD_SLOTS, sizeof(*slots));
	members->drawn = calloc(members->count, sizeof(*members->drawn));
	if (!members->slots || !members->drawn)
		return -ENOMEM;
	memcpy(members->slots, slots, TEMPOS_SPREAD_SLOTS * sizeof(*slots));
	members->pick = pick;
	return 0;
}

static int tempos_members_takes(struct tempos_members *members, const uint32_t *starts, const uint32_t *groups,
				uint32_t every, uint8_t keep)
{
	members->every = every;
	members->keep = keep;
	if (!starts)
		return 0;
	members->ranges = calloc(TEMPOS_RANGES, sizeof(*members->ranges));
	if (!members->ranges)
		return -ENOMEM;
	for (uint32_t i = 0; i < TEMPOS_RANGES; i++)
		members->ranges[i] = (struct tempos_range){ .start = starts[i], .groups = groups[i] };
	return 0;
}

static uint32_t tempos_members_drawn(struct tempos_members *members, uint32_t place)
{
	uint32_t drawn = members->drawn[place];

	members->drawn[place] = 0;
	return drawn;
}

static void tempos_members_free(struct tempos_members *members)
{
	free(members->slots);
	free(members->drawn);
	free(members->ranges);
	free(members);
}

static uint32_t tempos_batch_after(struct tempos_batch *b, uint32_t slot, uint32_t count)
{
	while (count--)
		slot = b->slots[slot].next;
	return slot;
}

static void tempos_batch_release(struct tempos_batch *b, uint32_t slot, uint32_t count)
{
	while (count--) {
		uint32_t next = b->slots[slot].next;

		put_slot(b, slot);
		slot = next;
	}
}

static const uint8_t *tempos_batch_bytes(struct tempos_batch *b, uint32_t slot, uint32_t *length)
{
	*length = b->slots[slot].length;
	return slot_bytes(b, slot);
}

static uint32_t tempos_batch_requests(struct tempos_batch *b, uint16_t topic, uint32_t slot, uint32_t count,
				      uint32_t *found)
{
	uint32_t requests = 0;

	for (; count--; slot = b->slots[slot].next) {
		const uint8_t *payload = slot_bytes(b, slot);
		size_t at = topic < TEMPOS_NARROW ? offsetof(struct tempos_event_header, version_flags)
						  : TEMPOS_WIDE_FLAGS_AT;

		/* Checked when they came: of what has an envelope, only a request is in a forwardable run. */
		if (b->framing[topic] == TEMPOS_FRAMING_EVENT && payload[at] & TEMPOS_FLAG_ENVELOPE)
			found[requests++] = slot;
	}
	return requests;
}

static int tempos_batch_segmenting(struct tempos_batch *b)
{
	return b->segmenting;
}

static uint32_t tempos_batch_staged(struct tempos_batch *b, uint8_t quality)
{
	return b->out[quality].staged;
}

static uint32_t tempos_batch_free_slots(struct tempos_batch *b)
{
	return b->free_count;
}
