/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a frame is decided on, whichever program it came to:
 *
 *      frame
 *        |
 *      parse      Ethernet to a MAC of ours, IPv4 without options, whole UDP datagram, to an address and port of
 *        |        ours, IPv4 checksum right, from a host's     ---- else PASS: not_unicast, other_mac, not_ipv4, vlan,
 *        |        address and none of ours, not empty              truncated, ip_options, fragment, not_udp,
 *        |            bad_length, other_address, other_port, bad_ip_checksum, martian_source, empty
 *        |        no VLAN tag but that of one whose frames are taken (tag.h)  ---- PASS: vlan
 *        |        the kernel takes the source, where it asks  ---- PASS: unknown_way_back
 *      route      routes[topic] -> route                      ---- none: PASS: no_route; DROP: keep_alive
 *        |            a wide id: rows[id] -> row, small_routes[row] or routes[row]: the same way, apart
 *        |            another port than the data port: ports[port] -> id, and on like that   ---- none: PASS: other_port
 *        |        the broker lives, where that is asked      ---- PASS: broker_gone
 *        |        source in the topic's networks, if any     ---- PASS: foreign_source
 *        |        payload as the topic's framing demands      ---- PASS: short_header, bad_version,
 *        |                                                             reserved_bits, bad_envelope
 *        |            no reply, which is for who asked         ---- PASS: reply
 *        |        TTL > 1, fits the smallest MTU             ---- PASS: ttl, too_big
 *        |        the route's way: one | broadcast             ---- clone: PASS: by_clone (clone.bpf.c)
 *        |        one datagram                                ---- PASS: burst
 *        |        the bridge knows the sender, at a port of one ---- PASS: for_bridge
 *        |        UDP checksum: none | full | partial         ---- PASS: ambiguous_checksum
 *        |        not sent again meanwhile, with a journal    ---- DROP: repeated
 *        |        within the topic's rate, if it has one      ---- DROP: over_rate
 *        |                                                         PASS: over_rate_passed
 *        |
 *   =====+=====   from here on the event is ours: nothing passes any more
 *        |
 *        +---- several groups: broadcast (fanout.h), which leaves as one redirect, too
 *        |
 *      draw       ticket = tickets[base]++
 *        |
 *        |            of a topic with a journal: written there (journal_write.h)
 *        |            to a port: not for this group (sieve.h)  ---- DROP: forwarded
 *        |
 *      pick       member = ticket % n ; delivery sequence = ticket / n
 *        |
 *      rewrite    MACs; source := the address that the member knows, and the data port; destination := the
 *        |        member; DSCP := the class's, ECN := 0; TTL - 1; epoch and delivery sequence (event framing);
 *        |        both checksums
 *        |
 *      redirect   by the member's egress slot                 ---- impossible: DROP: no_egress
 *        |
 *      count      one exit: counters[row][reason]; row 0 where no topic was read
 *                 tempos_timed, which is loaded instead where that is wanted: how long it took (latency.h)
 *
 * Rules kept here:
 *  - When in doubt, PASS: the slow path is right on its own. No question stands after the ticket, so every
 *    ticket ends in a redirect, or in `no_egress`, or in a copy that `copies` shows as not sent; and only the
 *    tickets stand after the token bucket, so what takes a place in a topic's rate is forwarded.
 *  - Both paths draw from the same ticket, so it is one atomic add, and its result alone decides.
 *  - What the packet does not change was computed when the route was made (struct tempos_member's sums).
 *
 * UDP checksum. Three kinds arrive, and nothing but the number tells them apart:
 *   0                    the sender made none: stays 0.
 *   the pseudo sum       a local sender over veth left the rest to hardware (CHECKSUM_PARTIAL).
 *                        Native: the frame loses the mark, so nobody would finish it: it is completed here.
 *                        Generic: the skb keeps the mark, so the field must stay a pseudo sum, the new
 *                        one. But a full checksum can be the same number by chance (1 in 65,536), so the
 *                        datagram is summed up: if it verifies as full, it may be either: PASS.
 *   anything else        a full checksum: changed by what changes (RFC 1624). A result of 0 is sent as
 *                        0xffff (RFC 768).
 */
#ifndef TEMPOS_DECIDE_H
#define TEMPOS_DECIDE_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "admit.h"
#include "beside.h"
#include "checksum.h"
#include "datagram_sum.h"
#include "fanout.h"
#include "journal_write.h"
#include "latency.h"
#include "maps.h"
#include "parse.h"
#include "pick.h"
#include "rewrite.h"
#include "sieve.h"
#include "tag.h"
#include "vlan.h"

static __always_inline enum tempos_reason classify_checksum(struct xdp_md *ctx, const struct packet *packet,
							     bool generic, enum checksum_kind *kind)
{
	__u16 check = packet->udp->check;
	__u64 pseudo;
	__u32 sum;

	if (!check) {
		*kind = CHECKSUM_NONE;
		return TEMPOS_FORWARDED;
	}
	pseudo = pseudo_sum(packet->ip, packet->udp);
	/* Neither is 0, so they fold to the same where their difference folds to 0xffff. */
	if (!folds_to_ones(pseudo + without(check))) {
		*kind = CHECKSUM_FULL;
		return TEMPOS_FORWARDED;
	}
	*kind = CHECKSUM_PARTIAL;
	if (!generic)
		return TEMPOS_FORWARDED;
	sum = datagram_sum(ctx, UDP_OFFSET, packet->payload_len + sizeof(struct udphdr));
	if (!sum || folds_to_ones(sum + pseudo))
		return TEMPOS_AMBIGUOUS_CHECKSUM;
	return TEMPOS_FORWARDED;
}

/* Everything after the last question: the event goes to one member, or is lost and counted. */
static __always_inline enum tempos_reason forward(struct xdp_md *ctx, const struct packet *packet,
						   const struct tempos_route *route, __u32 mask, bool generic,
						   enum checksum_kind kind, enum told_by by)
{
	const struct sender from = sender_of(packet);
	const struct tempos_member *member;
	__u64 sequence, ticket, number;
	__u64 change = 0;
	__u32 vlan;

	if (!draw(route, 0, &ticket))
		return TEMPOS_NO_ROUTE;
	if (route->journal)
		keep_event(ctx, route, ticket, packet->payload_len, 1);
	number = ticket;
	if (by == BY_PORT && !gets(route, 0, mask, takers(route, mask, &from), &number))
		return FOR_NOBODY;
	choose(route, 0, mask, number, by == BY_PORT ? &from : NULL, &member, &sequence);
	if (route->framing == TEMPOS_FRAMING_EVENT && packet->payload + TEMPOS_EVENT_HEADER_LEN <= (__u8 *)packet->end)
		change = stamp_event((struct tempos_event_header *)packet->payload, route->epoch, sequence);
	rewrite_udp(packet->udp, packet->ip, member, generic, kind, change);
	rewrite_ip(packet->ip, member, route->ip_start);
	if (by == BY_PORT && !member->source)
		restore_sender(packet->udp, packet->ip, &from, generic, kind);
	copy_macs(packet->eth->h_dest, member->dst_mac);
	vlan = member->ifindex >> TEMPOS_VLAN_SHIFT;
	if (vlan && !push_tag(ctx, ETH_P_8021Q << 16 | vlan))
		return TEMPOS_NO_EGRESS;
	return bpf_redirect_map(&egress, member->egress, 0) == XDP_REDIRECT ? TEMPOS_FORWARDED
									   : TEMPOS_NO_EGRESS;
}

static __always_inline struct cursor frame_of(struct xdp_md *ctx)
{
	return (struct cursor){.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
}

/* What is asked of a frame behind its headers; `cheap`: what those and the packet itself came to. */
static __always_inline enum tempos_reason look_beside(struct xdp_md *ctx, const struct packet *packet,
						      enum tempos_reason cheap)
{
	__u32 asks = settings.asks, tag;

	if (cheap != TEMPOS_FORWARDED)
		return cheap;
	/* Behind the cheap questions: what is not for the broker pays nothing for these. */
	tag = kept_tag();
	if (!tag)
		tag = tag_beside(ctx);
	if (tag) {
		__s64 of_vlan = settings.vlan_count ? vlan_asks(tag) : -1;

		if (of_vlan < 0)
			return TEMPOS_VLAN;
		asks = of_vlan;
	}
	return way_back_known(asks, packet->ip->saddr) ? TEMPOS_FORWARDED : TEMPOS_UNKNOWN_WAY_BACK;
}

/* A frame that is for the broker, as far as can be told without its topic. */
static __always_inline enum tempos_reason look_at(struct xdp_md *ctx, struct packet *packet)
{
	return look_beside(ctx, packet, parse(frame_of(ctx), packet, &settings));
}

/* From a route on; `mask` as in pick(). */
static __always_inline enum tempos_reason carry(struct xdp_md *ctx, const struct packet *packet,
						 const struct tempos_route *route, __u32 row, __u32 mask,
						 enum told_by by)
{
	enum tempos_reason reason;
	enum checksum_kind kind;
	/* Read once: to the verifier it is a constant, but each reading of it stays in the program. */
	const bool generic = settings.generic;

	reason = admit(packet, route, by);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	/* On skbs the copies would share their bytes. */
	if (route->way == TEMPOS_WAY_CLONE || (generic && route->way == TEMPOS_WAY_BROADCAST))
		return TEMPOS_BY_CLONE;
	if (generic && noted(NOTED_BURST))
		return TEMPOS_BURST;
	if (!bridge_is_told(packet->eth))
		return TEMPOS_FOR_BRIDGE;
	reason = classify_checksum(ctx, packet, generic, &kind);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	if (is_repeated(route, packet->payload, packet->end))
		return TEMPOS_REPEATED;
	/* The last question, since what takes a place in the rate takes a ticket. */
	reason = admit_rate(route, row);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	/* Only now that nothing passes any more: whoever gets it else would complete it once more. */
	if (kind == CHECKSUM_PARTIAL && !generic)
		kind = complete_checksum(ctx, packet->payload_len + sizeof(struct udphdr)) ? CHECKSUM_FULL
											  : CHECKSUM_NONE;
	if (by == BY_PORT)
		to_data_port(packet->udp, settings.port, kind);
	if (route->way == TEMPOS_WAY_BROADCAST && !generic)
		return by == BY_PORT ? broadcast_foreign(ctx, route, mask) : broadcast(ctx, route, mask);
	return forward(ctx, packet, route, mask, generic, kind, by);
}

/* What decide() says of a frame with a wide id; no reason of that number is ever counted. */
#define IS_WIDE TEMPOS_REASONS

/* From the topic's byte on, of a frame that is for the broker. `row`: where the topic stands in every table. */
static __always_inline enum tempos_reason decide_topic(struct xdp_md *ctx, const struct packet *packet, __u32 *row,
						       __u8 *framing)
{
	const struct tempos_route *route;

	*row = *packet->payload;
	route = find_route(*row);
	/* Of WIDE itself there is never a route; so narrow topics pay nothing for those that have wide ids. */
	if (!route) {
		if (*row == TEMPOS_WIDE)
			return IS_WIDE;
		return tempos_is_keep_alive(packet->payload, packet->end, packet->payload_len) ? TEMPOS_KEEP_ALIVE
											   : TEMPOS_NO_ROUTE;
	}
	*framing = route->framing;
	return carry(ctx, packet, route, *row, TEMPOS_MAX_MEMBERS - 1, BY_BYTE);
}

/* What a frame with a wide id comes to: reason, framing, row. */
union outcome {
	struct {
		__u8 reason;
		__u8 framing;
		__u16 row;
	};
	__u32 all;
};

/* The same for a frame with a wide id. A function of its own, which finds the headers anew. */
static __noinline __u32 decide_wide(struct xdp_md *ctx)
{
	union outcome outcome = {.framing = TEMPOS_FRAMING_RAW};
	struct packet packet;
	struct wide found;

	outcome.reason = look_at(ctx, &packet);
	if (outcome.reason != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.reason = find_wide(&packet, &found);
	outcome.row = found.row;
	if (outcome.reason != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.framing = found.route->framing;
	outcome.reason = carry(ctx, &packet, found.route, found.row, found.mask, BY_ID);
	return outcome.all;
}

/* The same for a frame to another port than the data port, where that is a foreign topic's. */
static __noinline __u32 decide_foreign(struct xdp_md *ctx)
{
	union outcome outcome = {.reason = TEMPOS_OTHER_PORT, .framing = TEMPOS_FRAMING_FOREIGN};
	struct cursor cursor = frame_of(ctx);
	struct packet packet;
	struct wide found = {.row = TEMPOS_WIDE};
	__u32 topic;

	/* Which it was already; this is for the verifier. */
	if (parse_headers(&cursor, &packet, &settings) != TEMPOS_OTHER_PORT)
		return outcome.all;
	topic = topic_at(packet.udp->dest);
	if (!topic)
		return outcome.all;
	outcome.reason = look_beside(ctx, &packet, parse_rest(cursor, &packet, &settings));
	if (outcome.reason != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.reason = find_numbered(topic, &found);
	outcome.row = found.row;
	if (outcome.reason != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.reason = carry(ctx, &packet, found.route, found.row, found.mask, BY_PORT);
	return outcome.all;
}

static __always_inline int conclude(struct xdp_md *ctx, __u32 row, enum tempos_reason reason)
{
	count(row, reason, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	if (reason == TEMPOS_FORWARDED)
		return XDP_REDIRECT;
	return is_dropped(reason) ? XDP_DROP : XDP_PASS;
}

/* The same, where the way was timed from `entered` on; 0: it was not. */
static __always_inline int conclude_timed(struct xdp_md *ctx, __u32 row, enum tempos_reason reason, __u8 framing,
					  __u64 entered)
{
	if (entered && reason == TEMPOS_FORWARDED) {
		const void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

		count_latency(row, framing, entered, past_tag(frame, end), end);
	}
	return conclude(ctx, row, reason);
}

static __always_inline int conclude_wide(struct xdp_md *ctx, __u64 entered)
{
	union outcome outcome = {.all = decide_wide(ctx)};

	return conclude_timed(ctx, outcome.row, outcome.reason, outcome.framing, entered);
}

/* As forwarded, too, counts what a foreign topic had for none of its members. */
static __always_inline int conclude_foreign(struct xdp_md *ctx, __u64 entered)
{
	union outcome outcome = {.all = decide_foreign(ctx)};

	if (outcome.reason != FOR_NOBODY)
		return conclude_timed(ctx, outcome.row, outcome.reason, outcome.framing, entered);
	count(outcome.row, TEMPOS_FORWARDED, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_DROP;
}

#endif
