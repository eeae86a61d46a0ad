/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The second way to several groups: a tc program that clones the packet for each of them. It serves what
 * the XDP program hands on as `by_clone`, where a broadcast in XDP cannot be had: in generic mode, where
 * copies would share their bytes, and where the route says so.
 *
 *      packet, that the XDP program on the same interface has passed
 *        |
 *      parse      as the XDP program does
 *      route      routes[topic], for several groups; of a wide id, or by a port, as the XDP program finds it
 *      admit      as the XDP program does                      ---- else NEXT: why it was passed is
 *        |                                                          counted already
 *        |        no VLAN tag beside the packet, one datagram ---- NEXT: vlan, burst
 *        |        not sent again meanwhile, with a journal   ---- DROP: repeated
 *        |        within the topic's rate, where it has one   ---- DROP: over_rate; NEXT: over_rate_passed
 *        |
 *   =====+=====   from here on the event is ours
 *        |
 *      draw       a ticket for each group
 *      journal    of a topic that has one: written there (journal_write.h)
 *      for each group, in their order:
 *        meant      of a foreign topic: for this group at all (sieve.h); else counted as sent
 *        pick       member, delivery sequence
 *        rewrite    as the XDP program does, but from the copy before
 *        clone      out of the member's interface              ---- refused: lost to this group
 *        |
 *      drop       the packet itself; counted as forwarded
 *
 * Rules kept here:
 *  - No question stands after the first ticket: every ticket ends in copies.sent[group], or is lost to the
 *    group, which is what is missing there from copies.events.
 *  - Each group is told for itself whether its copy was taken; hence the last copy is a clone as well: of
 *    a redirect nobody would learn how it ended.
 *  - After bpf_clone_redirect the packet shares no bytes with the clone any more: the kernel sees to that.
 *  - UDP checksums are changed by the kernel's own helper. It knows what a checksum on an skb is (full,
 *    partial, summed up by the device), so none is ambiguous here.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* For what writes journals (journal_write.h). */
#define CONTEXT struct __sk_buff
#define LOAD_BYTES bpf_skb_load_bytes

#include "abi.h"
#include "admit.h"
#include "checksum.h"
#include "journal_write.h"
#include "latency.h"
#include "maps.h"
#include "parse.h"
#include "pick.h"
#include "rewrite.h"
#include "sieve.h"

/* Left to whoever comes next; TCX_NEXT in newer headers. */
#define NEXT TC_ACT_UNSPEC
#define NOT_OURS TEMPOS_REASONS

#define IP_AT sizeof(struct ethhdr)
#define UDP_AT (IP_AT + sizeof(struct iphdr))
#define CHECK_AT (UDP_AT + offsetof(struct udphdr, check))
#define PAYLOAD_AT (UDP_AT + sizeof(struct udphdr))

static __always_inline struct cursor frame_of(struct __sk_buff *skb)
{
	return (struct cursor){.at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
}

/* Folds a sum to the 32 bits that the checksum helpers take. */
static __always_inline __u32 half(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum + (sum >> 32);
}

static __always_inline void refresh_ip(struct iphdr *ip)
{
	const __be32 *at = (const __be32 *)ip;

	ip->check = 0;
	ip->check = ~fold_wide((__u64)at[0] + at[1] + at[2] + at[3] + at[4]);
}

/*
 * Makes the packet that of one member: of the first, from what came in, and of each other, from the one
 * before. False if it cannot be written to.
 */
static __always_inline bool readdress(struct __sk_buff *skb, const struct tempos_route *route,
				       const struct tempos_member *member, __u64 sequence,
				       const struct sender *from)
{
	struct cursor frame = frame_of(skb);
	struct ethhdr *eth = frame.at;
	struct iphdr *ip = frame.at + IP_AT;
	struct udphdr *udp = frame.at + UDP_AT;
	void *payload = frame.at + PAYLOAD_AT;
	__be16 source_port = settings.port;
	__u64 addresses, rest = 0;
	bool summed;

	if (payload > frame.end)
		return false;
	if (route->framing == TEMPOS_FRAMING_EVENT) {
		if (payload + TEMPOS_EVENT_HEADER_LEN > frame.end)
			return false;
		rest = stamp_event(payload, route->epoch, sequence);
	}
	addresses = without_addresses(ip) + member->ip_sum;
	copy_macs(eth->h_dest, member->dst_mac);
	copy_addresses(&ip->saddr, &member->source);
	if (from) {
		__u64 keeps = keeps_sender(member);
		__be32 kept = from->address & keeps;

		addresses += kept;
		ip->saddr |= kept;
		source_port ^= (source_port ^ from->port) & keeps;
	}
	rest += (__u64)without(udp->source) + source_port + without(udp->dest) + member->port;
	refresh_ip(ip);
	udp->source = source_port;
	udp->dest = member->port;
	summed = udp->check;
	if (!summed) {
		/* Nothing in the packet takes up the change, so what the device summed up does. */
		bpf_csum_update(skb, half(rest));
		return true;
	}
	return !bpf_l4_csum_replace(skb, CHECK_AT, 0, half(rest), BPF_F_MARK_MANGLED_0) &&
	       !bpf_l4_csum_replace(skb, CHECK_AT, 0, half(addresses), BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR);
}

/* One copy for one group; whether its interface took it. */
static __always_inline bool send_copy(struct __sk_buff *skb, const struct tempos_route *route, __u32 mask,
				      __u32 group, __u64 ticket, const struct sender *from)
{
	const struct tempos_member *member;
	__u64 sequence;

	choose(route, group, mask, ticket, from, &member, &sequence);
	if (!readdress(skb, route, member, sequence, from))
		return false;
	/* Above 0 a queue says that it dropped a packet: this one, or one in its stead (NET_XMIT_CN). */
	return !bpf_clone_redirect(skb, member->ifindex, 0);
}

/* Everything after the last question; `mask` as in pick(). */
static __always_inline enum tempos_reason forward(struct __sk_buff *skb, const struct packet *packet,
						   const struct tempos_route *route, __u32 row, __u32 mask,
						   enum told_by by)
{
	__u32 place = row * 2 + (route->epoch & 1);
	struct tempos_copies *made = bpf_map_lookup_elem(&copies, &place);
	const __u32 only = 0;
	struct tempos_drawn *tickets = bpf_map_lookup_elem(&drawn, &only);
	struct sender from = sender_of(packet);
	__u32 groups = route->group_count;
	__u32 taking = by == BY_PORT ? takers(route, mask, &from) : ~0U;

	if (!made || !tickets)
		return TEMPOS_NO_ROUTE;
	/* Here and not with each copy: alike whoever gets it, as is what the refreshed checksum covers. */
	*(__be16 *)packet->ip = route->ip_start;
	packet->ip->ttl--;
	made->events++;
#pragma nounroll
	for (__u32 group = 0; group < TEMPOS_MAX_GROUPS; group++) {
		if (group >= groups || !draw(route, group, &tickets->of[group]))
			break;
	}
	if (route->journal)
		keep_event(skb, route, tickets->of[0], packet->payload_len, groups);
#pragma nounroll
	for (__u32 group = 0; group < TEMPOS_MAX_GROUPS; group++) {
		__u64 ticket = tickets->of[group];

		if (group >= groups)
			break;
		if ((by == BY_PORT && !gets(route, group, mask, taking, &ticket)) ||
		    send_copy(skb, route, mask, group, ticket, by == BY_PORT ? &from : NULL))
			made->sent[group]++;
	}
	return TEMPOS_FORWARDED;
}

/* From a route on. */
static __always_inline enum tempos_reason carry(struct __sk_buff *skb, const struct packet *packet,
						 const struct tempos_route *route, __u32 row, __u32 mask,
						 enum told_by by)
{
	enum tempos_reason reason;

	if (route->way == TEMPOS_WAY_ONE || admit(packet, route, by) != TEMPOS_FORWARDED)
		return NOT_OURS;
	if (skb->vlan_present)
		return TEMPOS_VLAN;
	if (skb->gso_size)
		return TEMPOS_BURST;
	if (!bridge_is_told(packet->eth))
		return TEMPOS_FOR_BRIDGE;
	if (is_repeated(route, packet->payload, packet->end))
		return TEMPOS_REPEATED;
	/* The last question, as in the XDP program, which has left it to this one. */
	reason = admit_rate(route, row);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	return forward(skb, packet, route, row, mask, by);
}

/*
 * What a packet is to the broker: FORWARDED is a datagram for its data port, OTHER_PORT one for another. A frame that
 * the XDP program has seen lies in one piece.
 */
static __always_inline enum tempos_reason look_at(struct __sk_buff *skb, struct packet *packet)
{
	enum tempos_reason reason;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TEMPOS_NOT_IPV4;
	reason = parse(frame_of(skb), packet, &settings);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	return way_back_known(settings.asks, packet->ip->saddr) ? TEMPOS_FORWARDED : TEMPOS_UNKNOWN_WAY_BACK;
}

/* What a packet comes to: reason, framing, row. */
union outcome {
	struct {
		__u8 reason;
		__u8 framing;
		__u16 row;
	};
	__u32 all;
};

/* A packet with a wide id. */
static __noinline __u32 decide_wide(struct __sk_buff *skb)
{
	union outcome outcome = {.reason = NOT_OURS, .framing = TEMPOS_FRAMING_RAW};
	struct packet packet;
	struct wide found;

	if (look_at(skb, &packet) != TEMPOS_FORWARDED || find_wide(&packet, &found) != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.row = found.row;
	outcome.framing = found.route->framing;
	outcome.reason = carry(skb, &packet, found.route, found.row, found.mask, BY_ID);
	return outcome.all;
}

/* A packet to another port than the data port. */
static __noinline __u32 decide_foreign(struct __sk_buff *skb)
{
	union outcome outcome = {.reason = NOT_OURS, .framing = TEMPOS_FRAMING_FOREIGN};
	struct cursor cursor = frame_of(skb);
	struct packet packet;
	struct wide found = {};
	__u32 topic;

	/* Which it was already; this is for the verifier. */
	if (parse_headers(&cursor, &packet, &settings) != TEMPOS_OTHER_PORT)
		return outcome.all;
	topic = topic_at(packet.udp->dest);
	if (!topic || parse_rest(cursor, &packet, &settings) != TEMPOS_FORWARDED ||
	    !way_back_known(settings.asks, packet.ip->saddr) ||
	    find_numbered(topic, &found) != TEMPOS_FORWARDED)
		return outcome.all;
	outcome.row = found.row;
	outcome.reason = carry(skb, &packet, found.route, found.row, found.mask, BY_PORT);
	return outcome.all;
}

static __always_inline union outcome decide(struct __sk_buff *skb)
{
	union outcome outcome = {.reason = NOT_OURS, .framing = TEMPOS_FRAMING_RAW};
	const struct tempos_route *route;
	enum tempos_reason reason;
	struct packet packet;

	reason = look_at(skb, &packet);
	if (reason == TEMPOS_OTHER_PORT)
		outcome.all = decide_foreign(skb);
	if (reason != TEMPOS_FORWARDED)
		return outcome;
	outcome.row = *packet.payload;
	route = find_route(outcome.row);
	if (!route && outcome.row == TEMPOS_WIDE)
		outcome.all = decide_wide(skb);
	if (!route)
		return outcome;
	outcome.framing = route->framing;
	outcome.reason = carry(skb, &packet, route, outcome.row, TEMPOS_MAX_MEMBERS - 1, BY_BYTE);
	return outcome;
}

static __always_inline int conclude(struct __sk_buff *skb, __u32 row, enum tempos_reason reason)
{
	if (reason == NOT_OURS)
		return NEXT;
	count(row, reason, (void *)(long)skb->data, (void *)(long)skb->data_end);
	return reason == TEMPOS_FORWARDED || reason == TEMPOS_OVER_RATE || reason == TEMPOS_REPEATED ? TC_ACT_SHOT : NEXT;
}

SEC("tc")
int tempos_clone(struct __sk_buff *skb)
{
	union outcome outcome = decide(skb);

	return conclude(skb, outcome.row, outcome.reason);
}

/* The same, and how long it took (latency.h). The "?": loaded only where user space asks for it. */
SEC("?tc")
int tempos_clone_timed(struct __sk_buff *skb)
{
	__u64 entered = bpf_ktime_get_ns();
	union outcome outcome = decide(skb);

	if (outcome.reason == TEMPOS_FORWARDED)
		count_latency(outcome.row, outcome.framing, entered, (void *)(long)skb->data,
			      (void *)(long)skb->data_end);
	return conclude(skb, outcome.row, outcome.reason);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
