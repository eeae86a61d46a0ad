/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An event for several groups, in XDP: what the ingress program does once, and the egress program for each
 * copy.
 *
 *      broadcast   (ingress)  a ticket and a pick for every group, in their order; what each copy must look
 *         |                   like goes into `events`, checksums and all; what is common to all copies is
 *         |                   written into the frame, and the mark where the MACs belong
 *         |
 *      fanouts[route's first + what every pick adds]          ---- none: DROP: no_egress
 *         |
 *      the kernel  one copy for each slot of that devmap      ---- no memory: the rest is not made
 *         |
 *      deliver     (egress)   the next copy of that event and interface, written; counted as sent
 *         |
 *      interface   takes it, or its ring is full              ---- drops.bpf.c takes it from what was sent
 *
 * Rules kept here:
 *  - Whatever can be missing is asked for before the first ticket. After it, every group's ticket ends in
 *    a copy that is sent, or in one that `copies` shows as lost.
 *  - Copies of one event leave an interface in the order of their groups: that is how they are told apart.
 *  - The egress program also meets frames that are no copies, for the kernel runs one program on all that
 *    an interface gets in a receive cycle: they go through untouched.
 */
#ifndef TEMPOS_FANOUT_H
#define TEMPOS_FANOUT_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"
#include "copies.h"
#include "journal_write.h"
#include "maps.h"
#include "parse.h"
#include "pick.h"
#include "rewrite.h"
#include "sieve.h"
#include "vlan.h"

/* Of Ethernet, IPv4 without options, and UDP. */
#define HEADERS_LEN (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))

/* What a foreign event comes to that is for no member of any group; no reason of that number is ever counted. */
#define FOR_NOBODY (TEMPOS_REASONS + 1)

/* What a copy's checksums are made of, but for its member and its sequence. */
struct common {
	__u64 ip_sum;
	__u64 udp_sum;
};

/* The frame's MACs, while it carries a mark. */
struct marked {
	__u64 mark;
	__u32 number;
};

/* Whether the copies are stamped, and the header for it is there. */
static __always_inline bool is_stamped(const struct tempos_route *route, const struct packet *packet)
{
	return *(const volatile __u8 *)&route->framing == TEMPOS_FRAMING_EVENT &&
	       packet->payload + TEMPOS_EVENT_HEADER_LEN <= (__u8 *)packet->end;
}

/* Writes what all copies have in common; native mode only, where no checksum is partial any more. */
static __always_inline struct common rewrite_common(const struct packet *packet, const struct tempos_route *route)
{
	struct tempos_event_header *header = (struct tempos_event_header *)packet->payload;
	struct iphdr *ip = packet->ip;
	struct udphdr *udp = packet->udp;
	struct common common = {
		.udp_sum = (__u64)without(udp->check) + without_addresses(ip) + without(udp->source),
	};

	common.ip_sum = start_ip(ip, route->ip_start);
	/* As in stamp_event, but that the epoch is written later: each copy adds its own sequence. */
	if (is_stamped(route, packet)) {
		common.udp_sum += (__u64)without(bpf_htons(header->epoch)) + bpf_htons((__u8)route->epoch) +
				  without_wide(header->delivery_sequence);
	}
	return common;
}

static __always_inline void describe_copy(struct copy *copy, const struct tempos_member *member,
					  const struct common *common, __u16 check_mask, __be32 sequence,
					  const struct sender *from)
{
	__u64 udp_sum = common->udp_sum + member->udp_sum + sequence, ip_sum = common->ip_sum + member->ip_sum;
	__be16 source_port = settings.port;
	__be32 kept = 0;
	__u16 check;

	if (from) {
		__u64 keeps = keeps_sender(member);

		kept = from->address & keeps;
		ip_sum += kept;
		/* The data port is in the sum already. */
		udp_sum += kept + (((__u64)without(source_port) + from->port) & keeps);
		source_port ^= (source_port ^ from->port) & keeps;
	}
	check = ~fold_wide(udp_sum);
	/* A result of 0 is sent as all ones. */
	copy->udp_check = (check | ones_for_none(check)) & check_mask;
	copy->ip_check = ~fold_wide(ip_sum);
	copy_addresses(&copy->source, &member->source);
	if (from)
		copy->source |= kept;
	copy->source_port = source_port;
	copy->port = member->port;
	copy->sequence = sequence;
	copy->ifindex = member->ifindex;
	copy_macs(copy->macs, member->dst_mac);
}

/* The event of these copies into the topic's journal, `length` bytes of payload. */
static __always_inline void keep_copies(struct xdp_md *ctx, const struct tempos_route *route,
					const struct event *event, __u32 length)
{
	const __u32 only = 0;
	struct tempos_drawn *tickets = bpf_map_lookup_elem(&drawn, &only);

	if (!tickets)
		return;
	for (__u32 group = 0; group < TEMPOS_MAX_GROUPS; group++)
		tickets->of[group] = event->copies[group].ticket;
	keep_event(ctx, route, (__u64)event->ticket_high << 32 | event->copies[0].ticket, length, event->count);
}

/* Where the headers of a frame are that was found right; how much of it there is, is to be asked again. */
static __always_inline struct packet headers_of(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data;

	return (struct packet){
		.eth = frame,
		.ip = frame + sizeof(struct ethhdr),
		.udp = frame + HEADERS_LEN - sizeof(struct udphdr),
		.payload = frame + HEADERS_LEN,
		.end = (void *)(long)ctx->data_end,
	};
}

/*
 * Everything after the last question: every group gets its copy, or it is counted as lost. The verifier goes through
 * the loop once: what differs from event to event is a mask in memory by then, not a constant in a register, and of the
 * frame nothing is held, it is found anew behind the loop.
 */
static __always_inline enum tempos_reason make_copies(struct xdp_md *ctx, const struct tempos_route *route,
						      __u32 mask, bool foreign)
{
	struct packet packet = headers_of(ctx);
	__u32 row = route->ticket_base / TEMPOS_GROUPS_PER_TOPIC;
	struct tempos_copies *account = bpf_map_lookup_elem(&copies, &row);
	const __u32 only = 0;
	struct sending *state = bpf_map_lookup_elem(&sending, &only);
	__u32 fanout = route->fanout;
	__u32 count = route->group_count;
	struct marked *marked;
	struct common common;
	struct event *event;
	__u32 place;
	void *ways;

	if (!account || !state || (void *)packet.payload > packet.end)
		return TEMPOS_NO_ROUTE;
	place = state->number % EVENTS;
	event = bpf_map_lookup_elem(&events, &place);
	if (!event)
		return TEMPOS_NO_ROUTE;
	if (foreign) {
		event->from = sender_of(&packet);
		event->taking = takers(route, mask, &event->from);
	}
	event->number = state->number;
	event->row = row;
	event->sequence_mask = ones_for_none(route->framing ^ TEMPOS_FRAMING_EVENT);
	/* No checksum is partial any more. */
	event->check_mask = ~ones_for_none(packet.udp->check);
	common = rewrite_common(&packet, route);
	event->count = count;
	event->next = 0;
	if (foreign)
		event->made = 0;
	for (__u32 group = 0; group < TEMPOS_MAX_GROUPS && group < count; group++) {
		const struct tempos_member *member;
		__u64 sequence, ticket;

		if (!draw(route, group, &ticket))
			return TEMPOS_NO_EGRESS;
		if (!group)
			event->ticket_high = ticket >> 32;
		event->copies[group].ticket = ticket;
		if (foreign && !gets(route, group, mask, event->taking, &ticket)) {
			/* None of its copies is lost; in the sum that leads to the devmap it is nothing. */
			event->copies[group].ifindex = 0;
			account->sent[group]++;
			continue;
		}
		choose(route, group, mask, ticket, foreign ? &event->from : NULL, &member, &sequence);
		describe_copy(&event->copies[group], member, &common,
			      *(volatile __u16 *)&event->check_mask,
			      bpf_htonl(sequence) & *(volatile __u32 *)&event->sequence_mask,
			      foreign ? &event->from : NULL);
		fanout += member->egress;
		if (foreign)
			event->made = 1;
	}
	asm volatile("" : "+r"(ctx));
	packet = headers_of(ctx);
	if ((void *)packet.payload > packet.end)
		return TEMPOS_NO_EGRESS;
	/* As it came in. */
	if (route->journal)
		keep_copies(ctx, route, event, number(packet.udp->len) - sizeof(struct udphdr));
	if (foreign && !event->made) {
		account->events++;
		return FOR_NOBODY;
	}
	if (is_stamped(route, &packet))
		((struct tempos_event_header *)packet.payload)->epoch = route->epoch;
	marked = (struct marked *)packet.eth;
	marked->mark = MARK;
	marked->number = state->number++;
	account->events++;
	ways = bpf_map_lookup_elem(&fanouts, &fanout);
	if (!ways)
		return TEMPOS_NO_EGRESS;
	return bpf_redirect_map(ways, 0, BPF_F_BROADCAST) == XDP_REDIRECT ? TEMPOS_FORWARDED
									  : TEMPOS_NO_EGRESS;
}

/* Functions of their own, which find the headers anew, so that topics of one group keep their registers. */
static __noinline enum tempos_reason broadcast(struct xdp_md *ctx, const struct tempos_route *route, __u32 mask)
{
	return make_copies(ctx, route, mask, false);
}

static __noinline enum tempos_reason broadcast_foreign(struct xdp_md *ctx, const struct tempos_route *route,
						       __u32 mask)
{
	return make_copies(ctx, route, mask, true);
}

/* Keeps in mind what passed, for the case that the interface does not take it. */
static __always_inline void log_passed(struct sending *state, __u32 what)
{
	state->log[state->passed++ % BULK] = what;
}

/* The first copy that has not left by this interface yet; TEMPOS_MAX_GROUPS if there is none. */
static __always_inline __u32 next_copy(struct event *event, __u32 ifindex)
{
	__u32 group = event->next;

	/* Where all leave by one interface, that is always the very first. */
	for (__u32 i = 0; i < TEMPOS_MAX_GROUPS; i++, group++) {
		/* The bound for the verifier, and where clang cannot lose it again. */
		asm volatile("" : "+r"(group));
		if (group >= TEMPOS_MAX_GROUPS || group >= event->count)
			break;
		if ((event->copies[group].ifindex & BELOW_VLAN) != ifindex)
			continue;
		event->copies[group].ifindex &= ~BELOW_VLAN;
		if (!i)
			event->next = group + 1;
		return group;
	}
	return TEMPOS_MAX_GROUPS;
}

static __always_inline int deliver(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct tempos_event_header *header = (void *)(udp + 1);
	const void *end = (const void *)(long)ctx->data_end;
	const struct marked *marked = (const struct marked *)eth;
	const __u32 only = 0;
	struct sending *state = bpf_map_lookup_elem(&sending, &only);
	struct tempos_copies *account;
	const struct copy *copy;
	struct event *event;
	__u32 place, row, group, vlan;

	if (!state)
		return XDP_PASS;
	if ((const void *)header > end || marked->mark != MARK) {
		log_passed(state, NO_COPY);
		return XDP_PASS;
	}
	place = marked->number % EVENTS;
	event = bpf_map_lookup_elem(&events, &place);
	if (!event || event->number != marked->number)
		goto refuse;
	group = next_copy(event, ctx->egress_ifindex);
	if (group >= TEMPOS_MAX_GROUPS)
		goto refuse;
	copy = &event->copies[group];
	/* A member that cannot be reached: the others get theirs. */
	if (!copy->port)
		goto refuse;
	if (event->sequence_mask) {
		if ((const void *)(header + 1) > end)
			goto refuse;
		header->delivery_sequence = copy->sequence;
	}
	copy_macs(eth->h_dest, copy->macs);
	copy_addresses(&ip->saddr, &copy->source);
	ip->check = copy->ip_check;
	copy_ports(&udp->source, &copy->source_port);
	udp->check = copy->udp_check;
	vlan = copy->ifindex >> TEMPOS_VLAN_SHIFT;
	if (vlan && !push_tag(ctx, ETH_P_8021Q << 16 | vlan))
		goto refuse;
	row = event->row;
	account = bpf_map_lookup_elem(&copies, &row);
	if (account)
		account->sent[group]++;
	log_passed(state, row * TEMPOS_MAX_GROUPS + group);
	return XDP_PASS;

refuse:
	/* A frame that is marked must not get out. It shows as a copy that was not sent. */
	state->refused++;
	return XDP_DROP;
}

#endif
