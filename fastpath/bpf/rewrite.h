/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What forwarding changes in a datagram: MACs, addresses, ports, TTL, the broker's stamps, both checksums.
 *
 * Rules: what the packet does not change was computed when the route was made (struct tempos_member's
 * sums). The source address becomes the one that the member knows its broker by, whichever the publisher sent
 * to; the source port what the destination port was, the data port.
 */
#ifndef TEMPOS_REWRITE_H
#define TEMPOS_REWRITE_H

#include <stdbool.h>
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
#include "parse.h"
#include "pick.h"

static __always_inline struct sender sender_of(const struct packet *packet)
{
	return (struct sender){.address = packet->ip->saddr, .port = packet->udp->source};
}

/* What arrives as a UDP checksum; see decide.h. */
enum checksum_kind { CHECKSUM_NONE, CHECKSUM_FULL, CHECKSUM_PARTIAL };

/*
 * Stamps the broker's fields and gives what that adds to a sum. The epoch is the second byte of a 16-bit word,
 * whose first stays what it is: 0, or the end of a wide id.
 */
static __always_inline __u64 stamp_event(struct tempos_event_header *event, __u8 epoch, __u32 sequence)
{
	__be32 stamped = bpf_htonl(sequence);
	__u64 change = (__u64)without(bpf_htons(event->epoch)) + bpf_htons(epoch) +
		       without_wide(event->delivery_sequence) + stamped;

	event->epoch = epoch;
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
 * take seven old words out. tempos sends a datagram of its own: the sender's marks, DSCP and ECN, do not go
 * on. The addresses are left for later. Gives the sum but for those.
 */
static __always_inline __u64 start_ip(struct iphdr *ip, __be16 start)
{
	__be16 *words = (__be16 *)ip;
	__be16 ttl = next_ttl(ip);
	__u64 sum = (__u64)start + ip->tot_len + *(__be32 *)&ip->id + ttl;

	words[0] = start;
	words[offsetof(struct iphdr, ttl) / 2] = ttl;
	return sum;
}

/*
 * Source and destination lie side by side in a packet and in what was prepared for it, in the same order, and are
 * copied in the fewest steps. Both are read as single fields as well, which the compiler must know.
 */
typedef __u64 __attribute__((may_alias)) eight_bytes;
typedef __u32 __attribute__((may_alias)) four_bytes;

static __always_inline void copy_addresses(__be32 *to, const __be32 *from)
{
	*(eight_bytes *)to = *(const eight_bytes *)from;
}

static __always_inline void copy_macs(__u8 *to, const __u8 *from)
{
	*(eight_bytes *)to = *(const eight_bytes *)from;
	*(four_bytes *)(to + 8) = *(const four_bytes *)(from + 8);
}

static __always_inline void copy_ports(__be16 *to, const __be16 *from)
{
	*(four_bytes *)to = *(const four_bytes *)from;
}

static __always_inline void rewrite_ip(struct iphdr *ip, const struct tempos_member *member, __be16 start)
{
	ip->check = ~fold_wide(start_ip(ip, start) + member->ip_sum);
	copy_addresses(&ip->saddr, &member->source);
}

/* What adding it takes the addresses of a packet out of a sum again. */
static __always_inline __u64 without_addresses(const struct iphdr *ip)
{
	return (__u64)without_wide(ip->saddr) + without_wide(ip->daddr);
}

/*
 * Before the addresses change. `change`: what stamping added to the payload's sum. Partial checksums are left in
 * generic mode only.
 */
static __always_inline void rewrite_udp(struct udphdr *udp, const struct iphdr *ip,
					 const struct tempos_member *member, bool generic,
					 enum checksum_kind kind, __u64 change)
{
	__u16 check;

	if (kind == CHECKSUM_FULL) {
		/* The source port becomes the old destination port: that one stays in the sum. */
		check = ~fold_wide(change + without(udp->check) + without_addresses(ip) +
				   without(udp->source) + member->udp_sum);
		udp->check = check ? check : 0xffff;
	} else if (generic && kind == CHECKSUM_PARTIAL) {
		udp->check = fold_wide((__u64)udp->check + without_addresses(ip) + member->ip_sum);
	}
	udp->source = udp->dest;
	udp->dest = member->port;
}

/*
 * What is sent to a foreign topic's port as if it had been to the data port, from which it leaves. Partial checksums
 * are those of generic mode: no port is in them.
 */
static __always_inline void to_data_port(struct udphdr *udp, __be16 data_port, enum checksum_kind kind)
{
	if (kind == CHECKSUM_FULL) {
		__u16 check = ~fold_wide((__u64)without(udp->check) + without(udp->dest) + data_port);

		udp->check = check ? check : 0xffff;
	}
	udp->dest = data_port;
}

/* All ones where members get datagrams from the sender's own address and port, else 0. */
static __always_inline __u64 keeps_sender(const struct tempos_member *member)
{
	return ones_for_none(member->source);
}

/* What was readdressed for a member that keeps the sender, with a source of 0, gets the sender's again. */
static __always_inline void restore_sender(struct udphdr *udp, struct iphdr *ip, const struct sender *from,
					   bool generic, enum checksum_kind kind)
{
	if (kind == CHECKSUM_FULL) {
		__u16 check = ~fold_wide((__u64)without(udp->check) + from->address + without(udp->source) + from->port);

		udp->check = check ? check : 0xffff;
	} else if (generic && kind == CHECKSUM_PARTIAL) {
		udp->check = fold_wide((__u64)udp->check + from->address);
	}
	ip->check = ~fold_wide((__u64)without(ip->check) + from->address);
	ip->saddr = from->address;
	udp->source = from->port;
}

_Static_assert(offsetof(struct tempos_member, src_mac) == offsetof(struct tempos_member, dst_mac) + ETH_ALEN,
	       "the MACs of a member lie as in an Ethernet header");
_Static_assert(offsetof(struct tempos_member, ip) == offsetof(struct tempos_member, source) + sizeof(__be32) &&
		       offsetof(struct iphdr, daddr) == offsetof(struct iphdr, saddr) + sizeof(__be32),
	       "the addresses of a member lie as in an IPv4 header");

#endif
