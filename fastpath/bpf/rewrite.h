/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What forwarding changes in a datagram: MACs, addresses, ports, TTL, the broker's stamps, both checksums.
 *
 * Rules: what the packet does not change was computed when the route was made (struct tempos_member's
 * sums). The source becomes what the destination was: the broker's own address and data port.
 */
#ifndef TEMPOS_REWRITE_H
#define TEMPOS_REWRITE_H

#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"
#include "maps.h"

/* What arrives as a UDP checksum; see decide.h. */
enum checksum_kind { CHECKSUM_NONE, CHECKSUM_FULL, CHECKSUM_PARTIAL };

/*
 * Stamps the broker's fields and gives what that adds to a sum. The epoch is the second byte of a
 * 16-bit word whose first, `reserved`, is known to be 0 by now.
 */
static __always_inline __u64 stamp_event(struct tempos_event_header *event, __u8 epoch, __u32 sequence)
{
	__be32 stamped = bpf_htonl(sequence);
	__u16 *epoch_word = (__u16 *)&event->reserved;
	__u64 change = (__u64)without(*epoch_word) + bpf_htons(epoch) +
		       without_wide(event->delivery_sequence) + stamped;

	*epoch_word = bpf_htons(epoch);
	event->delivery_sequence = stamped;
	return change;
}

/* The TTL is the first byte of its word, and more than 1. */
static __always_inline __be16 next_ttl(const struct iphdr *ip)
{
	return ((const __be16 *)ip)[offsetof(struct iphdr, ttl) / 2] - bpf_htons(0x0100);
}

/*
 * Every word of the header is known and it was right until now, so it is summed up anew: fewer steps than to
 * take five old words out. tempos sends a datagram of its own: the sender's marks, DSCP and ECN, do not go on.
 * The destination alone is left for later. Gives the sum but for that.
 */
static __always_inline __u64 start_ip(struct iphdr *ip, __be16 start)
{
	__be16 *words = (__be16 *)ip;
	__be16 ttl = next_ttl(ip);
	__u64 sum = (__u64)start + ip->tot_len + *(__be32 *)&ip->id + ttl + ip->daddr;

	words[0] = start;
	words[offsetof(struct iphdr, ttl) / 2] = ttl;
	ip->saddr = ip->daddr;
	return sum;
}

static __always_inline void rewrite_ip(struct iphdr *ip, const struct tempos_member *member, __be16 start)
{
	ip->check = ~fold_wide(start_ip(ip, start) + member->ip);
	ip->daddr = member->ip;
}

/* `old_source`: the publisher's address; `change`: what stamping added to the payload's sum. */
static __always_inline void rewrite_udp(struct udphdr *udp, const struct tempos_member *member,
					 enum checksum_kind kind, __be32 old_source, __u64 change)
{
	__u16 check;

	if (kind == CHECKSUM_FULL) {
		/* The source port becomes the old destination port, as with the addresses. */
		check = ~fold_wide(change + without(udp->check) + without_wide(old_source) +
				   without(udp->source) + member->udp_sum);
		udp->check = check ? check : 0xffff;
	} else if (settings.generic && kind == CHECKSUM_PARTIAL) {
		udp->check = fold_wide((__u64)udp->check + without_wide(old_source) + member->ip_sum);
	}
	udp->source = udp->dest;
	udp->dest = member->port;
}

static __always_inline void rewrite_mac(struct ethhdr *eth, const struct tempos_member *member)
{
	const __u32 *from = (const __u32 *)member->dst_mac;
	__u32 *to = (__u32 *)eth->h_dest;

	/* Destination and source lie side by side in both: three words instead of twelve bytes. */
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

_Static_assert(offsetof(struct tempos_member, src_mac) == offsetof(struct tempos_member, dst_mac) + ETH_ALEN,
	       "the MACs of a member lie as in an Ethernet header");

#endif
