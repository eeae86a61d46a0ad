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

#endif
