/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sums up a whole datagram: for a checksum that nothing else can tell full from partial, and to complete one
 * that a local sender left to hardware which the frame will not meet.
 */
#ifndef TEMPOS_DATAGRAM_SUM_H
#define TEMPOS_DATAGRAM_SUM_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "checksum.h"

/* The largest datagram whose UDP checksum is summed up in full: a jumbo frame's. */
#define CHECKSUM_MAX_LEN 9216
/* The most that kernels take in one call. */
#define CHECKSUM_BLOCK 512
/* Every bit that such a length can have: older verifiers know no other bound of it behind the loop. */
#define CHECKSUM_LEN_BITS 0x3fff

/*
 * Adds the `size` bytes that lie `before` bytes into the datagram, if the bit of its length says that there are so
 * many; where the frame ends before, the datagram cannot be told: the function around it gives 0. Where a piece
 * begins follows from the length alone, so that to the verifier it is all one whether the piece was there.
 */
#define ADD_PIECE(size, add)                                                      \
	if (len & (size)) {                                                       \
		const __u8 *at = datagram + (len & CHECKSUM_LEN_BITS & ~(2 * (size) - 1)); \
		if ((void *)at + (size) > end)                                    \
			return 0;                                                 \
		add;                                                              \
	}

/*
 * The folded sum of a datagram, UDP header and payload, `len` bytes by its header; 0 if it is too
 * long to tell. A function of its own, so that the verifier sees one scalar come out of it.
 */
static __noinline __u32 datagram_sum(struct xdp_md *ctx, __u32 offset, __u32 len)
{
	const void *end = (const void *)(long)ctx->data_end;
	const __u8 *datagram = (const __u8 *)(long)ctx->data + (offset & 63);
	__u32 blocks = 0;
	__u64 sum;

	if (len > CHECKSUM_MAX_LEN)
		return 0;
#pragma nounroll
	for (__u32 i = 0; i < CHECKSUM_MAX_LEN / CHECKSUM_BLOCK && i < len / CHECKSUM_BLOCK; i++) {
		const __u8 *at = datagram + i * CHECKSUM_BLOCK;

		if ((void *)at + CHECKSUM_BLOCK > end)
			return 0;
		blocks = bpf_csum_diff(NULL, 0, (__be32 *)at, CHECKSUM_BLOCK, blocks);
	}
	ADD_PIECE(256, blocks = bpf_csum_diff(NULL, 0, (__be32 *)at, 256, blocks));
	ADD_PIECE(128, blocks = bpf_csum_diff(NULL, 0, (__be32 *)at, 128, blocks));
	ADD_PIECE(64, blocks = bpf_csum_diff(NULL, 0, (__be32 *)at, 64, blocks));
	sum = blocks;
	ADD_PIECE(32, for (int i = 0; i < 32; i += 4) sum += *(__be32 *)(at + i));
	ADD_PIECE(16, for (int i = 0; i < 16; i += 4) sum += *(__be32 *)(at + i));
	ADD_PIECE(8, sum += (__u64)*(__be32 *)at + *(__be32 *)(at + 4));
	ADD_PIECE(4, sum += *(__be32 *)at);
	ADD_PIECE(2, sum += *(__be16 *)at);
	/* The last odd byte is the first of a word whose second is 0. */
	ADD_PIECE(1, sum += bpf_htons((__u16)(*at << 8)));
	return fold_wide(sum);
}

/* Where the UDP header begins: behind Ethernet and IPv4 without options. */
#define UDP_OFFSET (sizeof(struct ethhdr) + sizeof(struct iphdr))

/*
 * Makes the partial checksum of a datagram, `len` bytes by its UDP header, a full one: the pseudo sum stands in
 * the field, so the sum of everything is all that is missing. One that was full already and only looked partial
 * comes out as it was. Where the datagram is too long to be summed up it gets none (0), and so gives this. A global
 * function: the verifier looks at it alone, and not once more at the loops for each way that leads here.
 */
__noinline int complete_checksum(struct xdp_md *ctx, __u32 len)
{
	__u32 sum = datagram_sum(ctx, UDP_OFFSET, len);
	struct udphdr *udp = (void *)(long)ctx->data + UDP_OFFSET;
	__u16 check = ~sum;

	if ((void *)(udp + 1) > (void *)(long)ctx->data_end)
		return 0;
	udp->check = sum ? check ? check : 0xffff : 0;
	return udp->check;
}

#endif
