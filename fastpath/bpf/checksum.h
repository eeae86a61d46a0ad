/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Internet checksums (RFC 1071), changed in place (RFC 1624, equation 3).
 *
 * Rules: a sum is a one's complement sum of words as they lie in memory, so no byte is ever swapped; it
 * is folded once, at the end, and is wide enough to lose no carry before: u64 where it takes in 32-bit
 * words. Of those it takes a few, never so many that it comes to SUM_MOST.
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

#define SUM_MOST (1ULL << 46)
#define INVERSE_OF_ONES (-0x0001000100010001ULL)

/*
 * A sum plus itself with its halves exchanged has in its upper half the sum of the halves, the carry
 * out of it already brought around: one step folds by half. The lower half is brought up by multiplication.
 */
static __always_inline __u16 fold(__u32 sum)
{
	return (sum * 0x10001 + (sum >> 16)) >> 16;
}

/* The same for a sum of 32-bit words, which is congruent to that of their halves; below SUM_MOST. */
static __always_inline __u16 fold_wide(__u64 sum)
{
	return fold((__u32)(sum >> 16) + (__u16)sum);
}

/*
 * Whether a sum below SUM_MOST folds to 0xffff, or is 0: that is, whether 0xffff divides it. Times the inverse
 * of 0xffff modulo 2^64 such a sum gives the quotient, and every other one more than any quotient can be.
 */
static __always_inline bool folds_to_ones(__u64 sum)
{
	return sum * INVERSE_OF_ONES <= SUM_MOST / 0xffff;
}

/* All ones for 0, else 0, of a number below 2^63; without a branch, for a verifier would go both ways. */
static __always_inline __u64 ones_for_none(__u64 number)
{
	number = (number - 1) >> 63;
	number = -number;
	asm volatile("" : "+r"(number));
	return number;
}

/* What adding it takes a 16-bit word out of a sum again. */
static __always_inline __u64 without(__u16 word)
{
	return 0xffffULL - word;
}

static __always_inline __u64 without_wide(__be32 word)
{
	return 0xffffffffULL - word;
}

/* The header has a version, so its sum is not 0. */
static __always_inline bool ip_checksum_holds(const struct iphdr *ip)
{
	const __be32 *at = (const __be32 *)ip;

	return folds_to_ones((__u64)at[0] + at[1] + at[2] + at[3] + at[4]);
}

/* The sum of the pseudo header, which is never 0. Folded it is what a sender leaves in a partial checksum's field. */
static __always_inline __u64 pseudo_sum(const struct iphdr *ip, const struct udphdr *udp)
{
	return (__u64)ip->saddr + ip->daddr + bpf_htons(IPPROTO_UDP) + udp->len;
}

_Static_assert(0xffffULL * INVERSE_OF_ONES == 1, "it is the inverse");

#endif
