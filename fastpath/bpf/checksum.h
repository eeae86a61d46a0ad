/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Internet checksums (RFC 1071), changed in place (RFC 1624, equation 3).
 *
 * Rules: a sum is a one's complement sum of words as they lie in memory, so no byte is ever swapped; it
 * is folded once, at the end, and is wide enough to lose no carry before: u64 where it takes in 32-bit
 * words.
 */
#ifndef TEMPOS_CHECKSUM_H
#define TEMPOS_CHECKSUM_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The largest datagram whose UDP checksum is summed up in full: a jumbo frame's. */
#define CHECKSUM_MAX_LEN 9216
#define CHECKSUM_BLOCK 64

/*
 * A sum plus itself with its halves exchanged has in its upper half the sum of the halves, the carry
 * out of it already brought around: one step folds by half.
 */
static __always_inline __u16 fold(__u32 sum)
{
	return (sum + (sum << 16 | sum >> 16)) >> 16;
}

/* The same for a sum of 32-bit words, which is congruent to that of their halves. */
static __always_inline __u16 fold_wide(__u64 sum)
{
	return fold((sum + (sum << 32 | sum >> 32)) >> 32);
}

/* What adding it takes a 16-bit word out of a sum again. */
static __always_inline __u32 without(__u16 word)
{
	return (__u16)~word;
}

static __always_inline __u32 without_wide(__be32 word)
{
	return ~word;
}

static __always_inline bool ip_checksum_holds(const struct iphdr *ip)
{
	const __be32 *at = (const __be32 *)ip;

	return fold_wide((__u64)at[0] + at[1] + at[2] + at[3] + at[4]) == 0xffff;
}

/* The folded sum of the pseudo header; never 0. What a sender leaves in a partial checksum's field. */
static __always_inline __u16 pseudo_sum(const struct iphdr *ip, const struct udphdr *udp)
{
	return fold_wide((__u64)ip->saddr + ip->daddr + bpf_htons(IPPROTO_UDP) + udp->len);
}

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
