/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receipts of a process that may be killed: written by it and, inside of recvmmsg, by the kernel; read by
 * whoever settles what it left.
 */
#ifndef TEMPOS_BATCH_RECEIPTS_H
#define TEMPOS_BATCH_RECEIPTS_H

#include "batch_types.h"

static uint64_t tempos_receipts_size(uint32_t batch)
{
	return sizeof(struct tempos_receipts) + (uint64_t)batch * sizeof(struct mmsghdr);
}

static void tempos_receipts_begin(struct tempos_receipts *r, uint32_t batch, uint64_t taken)
{
	for (uint32_t i = 0; i < batch; i++)
		r->at_hand[i].msg_len = NOT_TAKEN;
	__atomic_store_n(&r->gone, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&r->taken, taken, __ATOMIC_SEQ_CST);
}

static uint64_t tempos_receipts_taken(const struct tempos_receipts *r, uint32_t batch)
{
	uint64_t taken = __atomic_load_n(&r->taken, __ATOMIC_SEQ_CST);

	for (uint32_t i = 0; i < batch; i++)
		taken += __atomic_load_n(&r->at_hand[i].msg_len, __ATOMIC_SEQ_CST) != NOT_TAKEN;
	return taken;
}

static uint64_t tempos_receipts_gone(const struct tempos_receipts *r)
{
	return __atomic_load_n(&r->gone, __ATOMIC_SEQ_CST);
}

static void tempos_batch_receipts(struct tempos_batch *b, struct tempos_receipts *r)
{
	for (uint32_t i = 0; i < b->batch; i++)
		r->at_hand[i].msg_hdr = b->rx[i].msg_hdr;
	b->rx = r->at_hand;
	b->receipts = r;
}

/*
 * What the last receive took is in the account by now. The marks go first: a kill in between then leaves too
 * few, which the account makes up for, and never too many.
 */
static void receipts_booked(struct tempos_batch *b)
{
	struct tempos_receipts *r = b->receipts;

	if (!r || !b->at_hand)
		return;
	for (uint32_t i = 0; i < b->at_hand; i++)
		__atomic_store_n(&r->at_hand[i].msg_len, NOT_TAKEN, __ATOMIC_RELEASE);
	__atomic_store_n(&r->taken, r->taken + b->at_hand, __ATOMIC_RELEASE);
	b->at_hand = 0;
}

#endif
