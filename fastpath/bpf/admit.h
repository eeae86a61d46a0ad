/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a parsed datagram to its route, and whether the route may carry it: what the programs of the fast
 * path ask alike, whatever the frame lies in.
 *
 * Rules: nothing is changed or drawn here. A packet that is not admitted is handed up with the reason.
 */
#ifndef TEMPOS_ADMIT_H
#define TEMPOS_ADMIT_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "frame.h"
#include "limit.h"
#include "maps.h"
#include "parse.h"

static __always_inline const struct tempos_route *find_route(__u32 row)
{
	const __u32 only = 0;
	void *current = bpf_map_lookup_elem(&routes, &row);

	return current ? bpf_map_lookup_elem(current, &only) : NULL;
}

static __always_inline const struct tempos_route *find_small_route(__u32 row)
{
	const __u32 only = 0;
	void *current = bpf_map_lookup_elem(&small_routes, &row);

	return current ? bpf_map_lookup_elem(current, &only) : NULL;
}

/*
 * Where a datagram with a wide id stands: in row WIDE, until a route is found. `mask`: how many members that has room
 * for, less 1.
 */
struct wide {
	const struct tempos_route *route;
	__u32 row;
	__u32 mask;
};

/*
 * The route of the topic with this id, which is a wide one. A topic that comes may get the row of one that went, and a program
 * that read the row of that may come late: so a route says whose it is.
 */
static __always_inline enum tempos_reason find_numbered(__u32 id, struct wide *found)
{
	__u32 row = row_of(id);

	if (!row)
		return TEMPOS_NO_ROUTE;
	found->route = find_small_route(row);
	found->mask = TEMPOS_SMALL_MEMBERS - 1;
	if (!found->route) {
		found->route = find_route(row);
		found->mask = TEMPOS_MAX_MEMBERS - 1;
	}
	if (!found->route || found->route->topic != id)
		return TEMPOS_NO_ROUTE;
	found->row = row;
	return TEMPOS_FORWARDED;
}

/* The same of a datagram whose first byte is WIDE. */
static __always_inline enum tempos_reason find_wide(const struct packet *packet, struct wide *found)
{
	const __u8 *id = packet->payload + 1;

	*found = (struct wide){.row = TEMPOS_WIDE};
	if (packet->payload_len < TEMPOS_WIDE_ID_LEN || (void *)(id + 2) > packet->end)
		return TEMPOS_SHORT_HEADER;
	return find_numbered(id[0] << 8 | id[1], found);
}

/* The topic that takes what is sent to this port, by its id; 0: none does. */
static __always_inline __u32 topic_at(__be16 port)
{
	const __u32 only = 0;
	const struct tempos_ports *all = bpf_map_lookup_elem(&ports, &only);

	return all ? all->topic[number(port)] : 0;
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

/*
 * Whether the kernel takes this source from this interface. What it drops by its reverse path it alone can tell; so it is
 * asked by user space, and until it has said yes what comes from there is the stack's. A global function, so that who
 * need not ask has nothing of it.
 */
__noinline int kernel_takes(__u32 ifindex, __be32 source)
{
	const __u32 only = 0, unanswered = TEMPOS_ASKED;
	struct tempos_source from = {.ifindex = ifindex, .address = source};
	const __u32 *verdict = bpf_map_lookup_elem(&sources, &from);
	__u32 *times;

	if (verdict)
		return *verdict == TEMPOS_TAKEN;
	bpf_map_update_elem(&sources, &from, &unanswered, BPF_NOEXIST);
	times = bpf_map_lookup_elem(&asked, &only);
	if (times)
		__sync_fetch_and_add(times, 1);
	return 0;
}

/* `ifindex`: of the interface that it comes in by for the stack, or 0 where that need not be asked. */
static __always_inline bool way_back_known(__u32 ifindex, __be32 source)
{
	return !ifindex || kernel_takes(ifindex, source);
}

/*
 * Whether the bridge that this is a port of has heard of a sender lately, whose MAC this is, or there is none. What it
 * forgets (after five minutes, or sooner where its neighbours say that the network has changed) it sends to every port.
 * A global function, as above.
 */
__noinline int bridge_knows(__u64 mac)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	__u64 *heard = bpf_map_lookup_elem(&learnt, &mac);

	if (heard && now - *heard < TEMPOS_BRIDGE_HEARS_MS * 1000000ULL)
		return 1;
	if (heard)
		*heard = now;
	else
		bpf_map_update_elem(&learnt, &mac, &now, BPF_ANY);
	return 0;
}

static __always_inline bool bridge_is_told(const struct ethhdr *eth)
{
	__u64 mac = 0;

	if (!settings.learns)
		return true;
	__builtin_memcpy(&mac, eth->h_source, sizeof(eth->h_source));
	return bridge_knows(mac);
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

/* What says of which topic a datagram is: its first byte, the two behind it, or the port that it is sent to. */
enum told_by { BY_BYTE, BY_ID, BY_PORT };

/* Whether a payload is as the framing of its topic demands; that of a foreign one may be anything. */
static __always_inline enum tempos_reason check_framing(const struct packet *packet, __u8 framing, enum told_by by)
{
	if (by == BY_PORT)
		return framing == TEMPOS_FRAMING_FOREIGN ? TEMPOS_FORWARDED : TEMPOS_NO_ROUTE;
	return (by == BY_ID ? tempos_check_wide : tempos_check_payload)(packet->payload, packet->end,
									packet->payload_len, framing);
}

/* Whether the route may carry this packet. */
static __always_inline enum tempos_reason admit(const struct packet *packet,
						 const struct tempos_route *route, enum told_by by)
{
	enum tempos_reason reason;

	if (broker_gone())
		return TEMPOS_BROKER_GONE;
	if (!source_allowed(route, packet->ip->saddr))
		return TEMPOS_FOREIGN_SOURCE;
	reason = check_framing(packet, route->framing, by);
	if (reason != TEMPOS_FORWARDED)
		return reason;
	/* User space installs no other, and none with a group that is empty. */
	if (!route->group_count || route->group_count > TEMPOS_MAX_GROUPS)
		return TEMPOS_NO_ROUTE;
	if (packet->ip->ttl <= 1)
		return TEMPOS_TTL;
	if (bpf_ntohs(packet->ip->tot_len) > route->mtu)
		return TEMPOS_TOO_BIG;
	return TEMPOS_FORWARDED;
}

/*
 * Whether the topic's rate lets one more through; takes its place. A global function: the verifier looks at
 * it alone, and at what follows it once, not for each way out of its loop.
 */
__noinline int check_rate(__u32 row)
{
	struct tempos_topic *topic = bpf_map_lookup_elem(&topics, &row);

	if (!topic || tempos_limit_take_one(topic))
		return TEMPOS_FORWARDED;
	return topic->overflow == TEMPOS_OVERFLOW_PASS ? TEMPOS_OVER_RATE_PASSED : TEMPOS_OVER_RATE;
}

static __always_inline enum tempos_reason admit_rate(const struct tempos_route *route, __u32 row)
{
	int reason;

	/* Most topics have none. */
	if (!(route->marks & TEMPOS_ROUTE_LIMITED))
		return TEMPOS_FORWARDED;
	reason = check_rate(row);
	/* The compiler knows what it can return, and leaves out checks that the verifier wants to see. */
	asm volatile("" : "+r"(reason));
	return reason;
}

/* Whether what comes to this goes nowhere: the slow path sees nothing of it. */
static __always_inline bool is_dropped(enum tempos_reason reason)
{
	return reason == TEMPOS_NO_EGRESS || reason == TEMPOS_OVER_RATE || reason == TEMPOS_KEEP_ALIVE ||
	       reason == TEMPOS_REPEATED;
}

/* Bytes of payload of a frame that was found to be whole; its UDP header still says them when all else is rewritten. */
static __always_inline __u32 payload_bytes(const void *frame, const void *end)
{
	const struct udphdr *udp = past_tag(frame, end) + sizeof(struct ethhdr) + sizeof(struct iphdr);

	return (const void *)(udp + 1) > end ? 0 : bpf_ntohs(udp->len) - sizeof(struct udphdr);
}

/* `frame`, `end`: where the packet lies. */
static __always_inline void count(__u32 row, enum tempos_reason reason, const void *frame, const void *end)
{
	struct tempos_counters *counted = bpf_map_lookup_elem(&counters, &row);
	__u64 at = reason;

	/* Else the compiler may check one copy and use another, of which the verifier of Linux 6.1 knows nothing. */
	asm volatile("" : "+r"(at));
	/* Per CPU and not reentrant: a plain increment loses nothing. */
	if (!counted || at >= TEMPOS_REASONS)
		return;
	counted->count[at]++;
	if (reason == TEMPOS_FORWARDED)
		counted->bytes += payload_bytes(frame, end);
	else if (is_dropped(reason))
		counted->dropped_bytes += payload_bytes(frame, end);
}

#endif
