/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fast path: forwards datagrams of topics with one group at the earliest point of reception.
 *
 *      frame
 *        |
 *      parse      Ethernet, IPv4 without options, whole UDP datagram, to an address and port of ours,
 *        |        IPv4 checksum right, not empty              ---- else PASS: not_ipv4, vlan, truncated,
 *        |            not_unicast, ip_options, fragment, not_udp, bad_length, other_address, other_port,
 *        |            bad_ip_checksum, empty
 *      route      routes[topic] -> route                      ---- none: PASS: no_route
 *        |        the broker lives, where that is asked      ---- PASS: broker_gone
 *        |        source in the topic's networks, if any     ---- PASS: foreign_source
 *        |        payload as the topic's framing demands      ---- PASS: short_header, bad_version,
 *        |                                                             reserved_bits
 *        |        TTL > 1, fits the smallest MTU, one datagram ---- PASS: ttl, too_big, burst
 *        |        UDP checksum: none | full | partial         ---- PASS: ambiguous_checksum
 *        |        within the topic's rate, if it has one      ---- DROP: over_rate
 *        |                                                         PASS: over_rate_passed
 *        |
 *   =====+=====   from here on the event is ours: nothing passes any more
 *        |
 *      pick       ticket = tickets[base]++ ; member = ticket % n ; delivery sequence = ticket / n
 *        |
 *      rewrite    MACs; source := the broker's address and data port; destination := the member;
 *        |        DSCP := the class's, ECN := 0; TTL - 1; epoch and delivery sequence (event framing);
 *        |        both checksums
 *        |
 *      redirect   by the member's egress slot                 ---- impossible: DROP: no_egress
 *        |
 *      count      one exit: counters[topic][reason]; topic 0 where none was read
 *
 * Rules kept here:
 *  - When in doubt, PASS: the slow path is right on its own. No question stands after the ticket, so every
 *    ticket ends in a redirect, or in `no_egress`; and only the ticket stands after the token bucket, so what
 *    takes a place in a topic's rate is forwarded.
 *  - Both paths draw from the same ticket, so it is one atomic add, and its result alone decides.
 *  - What the packet does not change was computed when the route was made (struct tempos_member's sums).
 *
 * UDP checksum. Three kinds arrive, and nothing but the number tells them apart:
 *   0                    the sender made none: stays 0.
 *   the pseudo sum       a local sender over veth left the rest to hardware (CHECKSUM_PARTIAL).
 *                        Native: the frame loses the mark, so nobody would finish it: it becomes 0.
 *                        Generic: the skb keeps the mark, so the field must stay a pseudo sum, the new
 *                        one. But a full checksum can be the same number by chance (1 in 65,536), so the
 *                        datagram is summed up: if it verifies as full, it may be either: PASS.
 *   anything else        a full checksum: changed by what changes (RFC 1624). A result of 0 is sent as
 *                        0xffff (RFC 768).
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "burst.h"
#include "checksum.h"
#include "frame.h"
#include "limit.h"
#include "maps.h"
#include "parse.h"

enum checksum_kind { CHECKSUM_NONE, CHECKSUM_FULL, CHECKSUM_PARTIAL };

static __always_inline const struct tempos_route *find_route(__u32 topic)
{
	const __u32 only = 0;
	void *current = bpf_map_lookup_elem(&routes, &topic);

	return current ? bpf_map_lookup_elem(current, &only) : NULL;
}

/*
 * Whether user space is gone and wants packets passed then. Where it does not, `gone_after_ns` is a
 * constant 0 to the verifier, and nothing of this is left. The coarse clock lags behind the stamp's by
 * up to a tick, hence the signed difference.
 */
static __always_inline bool broker_gone(void)
{
	const __u32 only = 0;
	const struct tempos_pulse *life;

	if (!settings.gone_after_ns)
		return false;
	life = bpf_map_lookup_elem(&pulse, &only);
	return !life || (__s64)(bpf_ktime_get_coarse_ns() - life->stamp_ns) > (__s64)settings.gone_after_ns;
}

static __always_inline bool source_allowed(const struct tempos_route *route, __be32 source)
{
	__u32 count = route->source_count;

	if (!count)
		return true;
	for (__u32 i = 0; i < TEMPOS_MAX_SOURCES && i < count; i++)
		if ((source & route->sources[i].mask) == route->sources[i].network)
			return true;
	return false;
}

/* Whether the route may carry this packet. */
static __always_inline enum tempos_reason check_route(struct xdp_md *ctx, const struct packet *packet,
						       const struct tempos_route *route)
{
	enum tempos_reason reason;

	if (broker_gone())
		return TEMPOS_BROKER_GONE;
	if (!source_allowed(route, packet->ip->saddr))
		return TEMPOS_FOREIGN_SOURCE;
	reason = tempos_check_payload(packet->payload, packet->end, packet->payload_len, route->framing);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	/* User space installs no other, and none whose group is empty. */
	if (route->group_count != 1)
		return TEMPOS_NO_ROUTE;
	if (packet->ip->ttl <= 1)
		return TEMPOS_TTL;
	if (bpf_ntohs(packet->ip->tot_len) > route->mtu)
		return TEMPOS_TOO_BIG;
	if (settings.generic && is_burst(ctx))
		return TEMPOS_BURST;
	return TEMPOS_FORWARDED;
}

static __always_inline enum tempos_reason classify_checksum(struct xdp_md *ctx, const struct packet *packet,
							     enum checksum_kind *kind)
{
	__u16 check = packet->udp->check;
	__u16 pseudo;
	__u32 sum;

	if (!check) {
		*kind = CHECKSUM_NONE;
		return TEMPOS_FORWARDED;
	}
	pseudo = pseudo_sum(packet->ip, packet->udp);
	if (check != pseudo) {
		*kind = CHECKSUM_FULL;
		return TEMPOS_FORWARDED;
	}
	*kind = CHECKSUM_PARTIAL;
	if (!settings.generic)
		return TEMPOS_FORWARDED;
	sum = datagram_sum(ctx, sizeof(struct ethhdr) + sizeof(struct iphdr),
			   packet->payload_len + sizeof(struct udphdr));
	if (!sum || fold(sum + pseudo) == 0xffff)
		return TEMPOS_AMBIGUOUS_CHECKSUM;
	return TEMPOS_FORWARDED;
}

/*
 * Whether the topic's rate lets one more through; takes its place. A global function: the verifier looks at
 * it alone, and at what follows it once, not for each way out of its loop.
 */
__noinline int check_rate(__u32 id)
{
	struct tempos_topic *topic = bpf_map_lookup_elem(&topics, &id);

	if (!topic || tempos_limit_take_one(topic))
		return TEMPOS_FORWARDED;
	return topic->overflow == TEMPOS_OVERFLOW_PASS ? TEMPOS_OVER_RATE_PASSED : TEMPOS_OVER_RATE;
}

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

/*
 * Every word of the header is known and it was right until now, so it is summed up anew: fewer steps than to
 * take five old words out. tempos sends a datagram of its own: the sender's marks, DSCP and ECN, do not go on.
 */
static __always_inline void rewrite_ip(struct iphdr *ip, const struct tempos_member *member, __be16 start)
{
	__be16 *words = (__be16 *)ip;
	/* The TTL is the first byte of its word, and more than 1. */
	__be16 ttl = words[offsetof(struct iphdr, ttl) / 2] - bpf_htons(0x0100);

	ip->check = ~fold_wide((__u64)start + ip->tot_len + *(__be32 *)&ip->id + ttl + ip->daddr + member->ip);
	words[0] = start;
	words[offsetof(struct iphdr, ttl) / 2] = ttl;
	ip->saddr = ip->daddr;
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
	} else if (kind == CHECKSUM_PARTIAL) {
		udp->check = !settings.generic ? 0 :
			fold_wide((__u64)udp->check + without_wide(old_source) + member->ip_sum);
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

/* Everything after the last question: the event goes to one member, or is lost and counted. */
static __always_inline enum tempos_reason forward(const struct packet *packet,
						   const struct tempos_route *route, enum checksum_kind kind)
{
	__u32 slot = route->ticket_base;
	struct tempos_ticket *counter = bpf_map_lookup_elem(&tickets, &slot);
	__u32 count = route->groups[0].count;
	const struct tempos_member *member;
	__be32 publisher = packet->ip->saddr;
	__u64 ticket, sequence;
	__u64 change = 0;

	if (!counter)
		return TEMPOS_NO_ROUTE;
	ticket = __sync_fetch_and_add(&counter->next, 1);
	/* The division is the dearest single instruction, and many groups are one subscriber's own. */
	sequence = count == 1 ? ticket : ticket / count;
	member = &route->members[(route->groups[0].first + (__u32)(ticket - sequence * count)) &
				 (TEMPOS_MAX_MEMBERS - 1)];
	/* Keeps clang from working the address out again at each use. */
	asm volatile("" : "+r"(member));
	if (route->framing == TEMPOS_FRAMING_EVENT && packet->payload + TEMPOS_EVENT_HEADER_LEN <= (__u8 *)packet->end)
		change = stamp_event((struct tempos_event_header *)packet->payload, route->epoch, sequence);
	rewrite_udp(packet->udp, member, kind, publisher, change);
	rewrite_ip(packet->ip, member, route->ip_start);
	rewrite_mac(packet->eth, member);
	return bpf_redirect_map(&egress, member->egress, 0) == XDP_REDIRECT ? TEMPOS_FORWARDED
									   : TEMPOS_NO_EGRESS;
}

static __always_inline enum tempos_reason decide(struct xdp_md *ctx, __u32 *topic)
{
	const struct tempos_route *route;
	enum tempos_reason reason;
	enum checksum_kind kind;
	struct packet packet;

	reason = parse(ctx, &packet, &settings);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	*topic = *packet.payload;
	route = find_route(*topic);
	if (!route)
		return TEMPOS_NO_ROUTE;
	reason = check_route(ctx, &packet, route);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	reason = classify_checksum(ctx, &packet, &kind);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	/* The last question, since what takes a place in the rate takes a ticket; most topics have none. */
	if (route->limited && (reason = check_rate(*topic)) != TEMPOS_FORWARDED)
		return reason;
	return forward(&packet, route, kind);
}

static __always_inline void count(__u32 topic, enum tempos_reason reason)
{
	struct tempos_counters *row = bpf_map_lookup_elem(&counters, &topic);

	/* Per CPU and not reentrant: a plain increment loses nothing. */
	if (row && reason < TEMPOS_REASONS)
		row->count[reason]++;
}

SEC("xdp")
int tempos_fastpath(struct xdp_md *ctx)
{
	__u32 topic = 0;
	enum tempos_reason reason = decide(ctx, &topic);

	count(topic, reason);
	if (reason == TEMPOS_FORWARDED)
		return XDP_REDIRECT;
	return reason == TEMPOS_NO_EGRESS || reason == TEMPOS_OVER_RATE ? XDP_DROP : XDP_PASS;
}

_Static_assert(offsetof(struct tempos_member, src_mac) == offsetof(struct tempos_member, dst_mac) + ETH_ALEN,
	       "the MACs of a member lie as in an Ethernet header");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
