/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of nearly all events through the native program, in the fewest steps: a plain route (events from anywhere,
 * no rate, no journal), a datagram with nothing about it that needs a second look.
 *
 *      frame      all that parse.h asks, as yes or no       ---- no: decide.h asks anew, and says why
 *        |        not to the data port                      ---- run_foreign
 *      route      there is one, and plain; the payload as its framing demands, TTL, MTU, the checksum whole or none
 *        |                                                  ---- no: decide.h goes on from the topic
 *        +---- several groups: broadcast (fanout.h)
 *      pick, rewrite, redirect, count, as in decide.h
 *
 * Rules kept here:
 *  - Nothing is decided but that an event is forwarded: whatever this does not take is the other programs', which
 *    answer it as if this were not there. So it asks for no less than they do, and changes nothing and takes no
 *    ticket before the last question.
 *  - Reasons, and what belongs to few events, lie in functions of their own: in the way of an event they would cost
 *    it registers, and places in the processor's cache of instructions.
 */
#ifndef TEMPOS_QUICK_H
#define TEMPOS_QUICK_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "admit.h"
#include "checksum.h"
#include "decide.h"
#include "fanout.h"
#include "maps.h"
#include "parse.h"
#include "pick.h"
#include "rewrite.h"
#include "tag.h"
#include "vlan.h"

/* From the type of an Ethernet frame on: IPv4, without options; then any byte. */
#define TYPE_AND_VERSION bpf_htonl(ETH_P_IP << 16 | IP_VERSION_4_PLAIN << 8)
#define OF_TYPE_AND_VERSION bpf_htonl(0xffffff00)
/* The first bytes of an event of this version without an envelope, but for its topic, flags and epoch. */
#define EVENT_PLAIN bpf_htonl(TEMPOS_WIRE_VERSION << 20)
#define OF_EVENT_PLAIN bpf_htonl((0xf0 | TEMPOS_FLAG_ENVELOPE) << 16 | 0xff00)
/* All addresses less those of a packet: what takes them out of a sum (without_addresses). */
#define NO_ADDRESSES 0x1fffffffeULL

/* What is asked of a route at once, in the four bytes from `way` on: nothing but whether it has several groups. */
typedef __u32 __attribute__((may_alias)) route_word;
#define OF_NOT_PLAIN bpf_htonl(~(TEMPOS_WAY_BROADCAST << 24))

/* User space installs none without a group. */
static __always_inline bool is_plain(const struct tempos_route *route)
{
	return !(*(const route_word *)&route->way & OF_NOT_PLAIN) && route->group_count &&
	       route->group_count <= TEMPOS_MAX_GROUPS;
}

/* What this says of a frame that is for the broker, to another port, or has a wide id; no verdict is that. */
#define TO_TOPIC -1
#define TO_FOREIGN -2
#define TO_WIDE -3

/* Whose frame it is, with the reason where it is nobody's. */
static __noinline int look_whole(struct xdp_md *ctx)
{
	struct packet packet;
	enum tempos_reason reason = look_at(ctx, &packet);

	if (reason == TEMPOS_FORWARDED)
		return TO_TOPIC;
	return reason == TEMPOS_OTHER_PORT ? TO_FOREIGN : conclude(ctx, 0, reason);
}

/* From the topic's byte on, of a frame whose headers were found right. One with a wide id is left. */
static __always_inline int conclude_topic(struct xdp_md *ctx, __u64 entered)
{
	void *frame = (void *)(long)ctx->data;
	struct packet packet = {
		.eth = frame,
		.ip = frame + sizeof(struct ethhdr),
		.udp = frame + UDP_OFFSET,
		.payload = frame + HEADERS_LEN,
		.end = (void *)(long)ctx->data_end,
	};
	enum tempos_reason reason;
	__u8 framing = TEMPOS_FRAMING_RAW;
	__u32 row = 0;

	/* Which it was already; this is for the verifier. */
	if ((void *)(packet.payload + 1) > packet.end)
		return conclude(ctx, row, TEMPOS_TRUNCATED);
	packet.payload_len = bpf_ntohs(packet.udp->len) - sizeof(struct udphdr);
	reason = decide_topic(ctx, &packet, &row, &framing);
	return reason == IS_WIDE ? TO_WIDE : conclude_timed(ctx, row, reason, framing, entered);
}

/* What the rest is left to, once as it is, and once timed: who is not timed has not an instruction of it. */
static __noinline int run_topic(struct xdp_md *ctx)
{
	return conclude_topic(ctx, 0);
}

static __noinline int run_wide(struct xdp_md *ctx)
{
	return conclude_wide(ctx, 0);
}

static __noinline int run_foreign(struct xdp_md *ctx)
{
	return conclude_foreign(ctx, 0);
}

static __noinline int time_topic(struct xdp_md *ctx, __u64 entered)
{
	return conclude_topic(ctx, entered);
}

static __noinline int time_wide(struct xdp_md *ctx, __u64 entered)
{
	return conclude_wide(ctx, entered);
}

static __noinline int time_foreign(struct xdp_md *ctx, __u64 entered)
{
	return conclude_foreign(ctx, entered);
}

static __noinline int run_lost(struct xdp_md *ctx, __u32 row)
{
	return conclude(ctx, row, TEMPOS_NO_EGRESS);
}

/*
 * What a program is; `timed`, a constant: one that measures how long events take. None of the functions that it leaves
 * the rest to calls another of them, for their stacks would be too much together, and each is called in one place, for
 * the verifier looks at it once for each.
 */
static __always_inline int run(struct xdp_md *ctx, bool timed)
{
	const __u64 entered = timed ? bpf_ktime_get_ns() : 0;
	void *frame = (void *)(long)ctx->data;
	struct ethhdr *eth = frame;
	struct iphdr *ip = frame + sizeof(struct ethhdr);
	struct udphdr *udp = frame + UDP_OFFSET;
	__u8 *payload = frame + HEADERS_LEN;
	void *end = (void *)(long)ctx->data_end;
	const __be32 *words = (const __be32 *)ip;
	const struct tempos_route *route;
	const struct tempos_member *member;
	struct tempos_counters *counted;
	enum tempos_reason reason;
	__u64 length, addresses, sum, change = 0;
	__u64 sequence, ticket;
	bool stamped;
	int verdict;
	__u16 check;
	__u32 row;
	__u8 framing;

	/* On skbs every way has questions of its own. */
	if (settings.generic)
		goto whole;
	if ((void *)(payload + 1) > end || (*(const frame_start *)frame ^ settings.macs[0]) & MAC_OF_START ||
	    (*(const frame_word *)(frame + offsetof(struct ethhdr, h_proto)) & OF_TYPE_AND_VERSION) != TYPE_AND_VERSION ||
	    (*(const frame_word *)(frame + sizeof(*eth) + offsetof(struct iphdr, frag_off)) & IP_FRAGMENT_AND_PROTOCOL) !=
		    IP_WHOLE_UDP)
		goto whole;
	length = number(ip->tot_len);
	if ((void *)ip + length > end || length <= HEADERS_LEN - sizeof(*eth) ||
	    bpf_ntohs(udp->len) != length - sizeof(*ip))
		goto whole;
	reason = parse_destination(&(const struct packet){.ip = ip, .udp = udp}, &settings);
	if (reason == TEMPOS_OTHER_PORT)
		goto foreign;
	if (reason != TEMPOS_FORWARDED)
		goto whole;
	addresses = (__u64)words[3] + words[4];
	if (!folds_to_ones(addresses + words[0] + words[1] + words[2]) || is_suspect(ip, &settings) || tag_beside(ctx) ||
	    !way_back_known(settings.asks, ip->saddr))
		goto whole;

	row = *payload;
	route = find_route(row);
	if (!route || !is_plain(route) || broker_gone() || settings.learns || ip->ttl <= 1 || length > route->mtu)
		goto topic;
	check = udp->check;
	/* As in classify_checksum: a partial one. */
	if (check && folds_to_ones(addresses + bpf_htons(IPPROTO_UDP) + udp->len + without(check)))
		goto topic;
	stamped = route->framing == TEMPOS_FRAMING_EVENT;
	if (stamped && (length < HEADERS_LEN - sizeof(*eth) + TEMPOS_EVENT_HEADER_LEN ||
			(void *)(payload + TEMPOS_EVENT_HEADER_LEN) > end ||
			(*(const frame_word *)payload & OF_EVENT_PLAIN) != EVENT_PLAIN))
		goto topic;
	if (route->way == TEMPOS_WAY_BROADCAST)
		goto copies;
	if (!draw(route, 0, &ticket))
		goto topic;

	choose(route, 0, TEMPOS_MAX_MEMBERS - 1, ticket, NULL, &member, &sequence);
	if (stamped && (void *)(payload + TEMPOS_EVENT_HEADER_LEN) <= end)
		change = stamp_event((struct tempos_event_header *)payload, route->epoch, sequence);
	if (check) {
		/* As in rewrite_udp. */
		sum = ~fold_wide(change + without(check) + (NO_ADDRESSES - addresses) + without(udp->source) +
				 member->udp_sum) & 0xffff;
		udp->check = sum ? sum : 0xffff;
	}
	udp->source = udp->dest;
	udp->dest = member->port;
	rewrite_ip(ip, member, route->ip_start);
	copy_macs(eth->h_dest, member->dst_mac);
	if (bpf_redirect_map(&egress, member->egress, 0) != XDP_REDIRECT)
		return run_lost(ctx, row);
	counted = bpf_map_lookup_elem(&counters, &row);
	if (counted) {
		counted->count[TEMPOS_FORWARDED]++;
		counted->bytes += length - (HEADERS_LEN - sizeof(*eth));
	}
	if (timed)
		count_latency(row, stamped ? TEMPOS_FRAMING_EVENT : TEMPOS_FRAMING_RAW, entered, frame, end);
	return XDP_REDIRECT;

copies:
	framing = route->framing;
	return conclude_timed(ctx, row, broadcast(ctx, route, TEMPOS_MAX_MEMBERS - 1), framing, entered);
whole:
	pop_tag(ctx);
	verdict = look_whole(ctx);
	if (verdict == TO_FOREIGN)
		goto foreign_looked_at;
	if (verdict != TO_TOPIC)
		return with_tag(ctx, verdict);
	goto topic_looked_at;
topic:
	keep_no_tag();
topic_looked_at:
	verdict = timed ? time_topic(ctx, entered) : run_topic(ctx);
	if (verdict == TO_WIDE)
		verdict = timed ? time_wide(ctx, entered) : run_wide(ctx);
	return with_tag(ctx, verdict);
foreign:
	keep_no_tag();
foreign_looked_at:
	return with_tag(ctx, timed ? time_foreign(ctx, entered) : run_foreign(ctx));
}

_Static_assert(offsetof(struct tempos_route, way) % 4 == 0 &&
		       offsetof(struct tempos_route, journal) == offsetof(struct tempos_route, way) + 3,
	       "what makes a route plain is one word");

#endif
