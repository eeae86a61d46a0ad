/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sums up a whole datagram, byte by byte: for a checksum that nothing else can tell full from partial.
 */
#ifndef TEMPOS_DATAGRAM_SUM_H
#define TEMPOS_DATAGRAM_SUM_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "checksum.h"

/* The largest datagram whose UDP checksum is summed up in full: a jumbo frame's. */
#define CHECKSUM_MAX_LEN 9216
#define CHECKSUM_BLOCK 64

/*
 * The folded sum of a datagram, UDP header and payload, `len` bytes by its header; 0 if it is too
 * long to tell. A function of its own, so that the verifier sees one scalar come out of the loop.
 */
static __noinline __u32 datagram_sum(struct xdp_md *ctx, __u32 offset, __u32 len)
{
	void *end = (void *)(long)ctx->data_end;
	__u8 *at = (void *)(long)ctx->data;
	__u64 sum = 0;
	__u32 left = len;

	if (len > CHECKSUM_MAX_LEN || offset > 64)
		return 0;
	at += offset;
	/* Blocks first: what follows the loop is verified once for each way out of it. */
#pragma nounroll
	for (__u32 i = 0; i < CHECKSUM_MAX_LEN / CHECKSUM_BLOCK; i++) {
		if (left < CHECKSUM_BLOCK || (void *)at + CHECKSUM_BLOCK > end)
			break;
#pragma unroll
		for (__u32 word = 0; word < CHECKSUM_BLOCK; word += 4)
			sum += *(__be32 *)(at + word);
		at += CHECKSUM_BLOCK;
		left -= CHECKSUM_BLOCK;
	}
#pragma nounroll
	for (__u32 i = 0; i < CHECKSUM_BLOCK / 4 - 1; i++) {
		if (left < 4 || (void *)at + 4 > end)
			break;
		sum += *(__be32 *)at;
		at += 4;
		left -= 4;
	}
	if (left >= 2 && (void *)at + 2 <= end) {
		sum += *(__be16 *)at;
		at += 2;
		left -= 2;
	}
	if (left == 1 && (void *)at + 1 <= end) {
		/* The last odd byte is the first of a word whose second is 0. */
		sum += bpf_htons((__u16)(*at << 8));
		left = 0;
	}
	if (left)
		return 0;
	return fold_wide(sum);
}

#endif
