/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps that user space and the program share, by name; the layouts are in abi.h. Tables of topics are as long as
 * user space says when they are made (limits.topics): a row for each narrow id, and one for each wide topic that there
 * may be.
 *
 *   routes    row -> the route of its current epoch. A slot is replaced whole: a packet sees the old
 *             route or the new one, and the update returns when nothing uses the old one any more.
 *   small_routes  the same of wide topics with few members; what stands there comes before what stands in routes.
 *   tickets   the counters both paths draw from; user space maps them into its memory.
 *   egress    slot -> interface, and the egress program while topics with several groups leave by it.
 *   fanouts   key -> devmap with one slot for each copy of an event; every slot has the egress program.
 *   journals  row -> the journal of its topic, in cells (journal.h); user space maps it into its memory.
 *   drawn     the tickets of the event at hand, by group, per CPU; each object's own.
 *   copies    row and epoch -> copies for several groups: wanted, and sent, per CPU.
 *   events    the latest events with several groups, and what each of their copies must look like, per CPU.
 *   sending   where this CPU stands in `events`, and which copies the interface at hand is about to take.
 *             These two are in copies.h, for the drop counters.
 *   counters  row -> datagrams by reason, per CPU.
 *   latency   row -> how long its events took, per CPU; only where that is wanted (latency.h).
 *   rows      wide id -> row (topics.h).
 *   ports     port -> the id of the foreign topic that takes what is sent there.
 *   topics    row -> its class, rate and token bucket (topics.h).
 *   pulse     when user space last said that it lives; it writes through its own memory. Beside it how far
 *             CLOCK_TAI is ahead.
 *   sources   source and interface -> whether the kernel takes it (enum tempos_verdict). The programs ask, user space
 *             has the kernel answer; only where an interface looks at reverse paths.
 *   asked     how often a program has put one there.
 *   learnt    MAC -> when an event of that sender was last left to the bridge; each program's own (bridge_knows).
 *   settings  fixed at load: to the verifier these are constants, and branches on them cost nothing.
 */
#ifndef TEMPOS_MAPS_H
#define TEMPOS_MAPS_H

#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "copies.h"
#include "topics.h"

/* Sizes, not types: in a map of maps clang 14 emits only a forward declaration of a value's struct. */
struct route_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct tempos_route));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TEMPOS_NARROW);
	__uint(key_size, sizeof(__u32));
	__array(values, struct route_map);
} routes SEC(".maps");

struct small_route_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, offsetof(struct tempos_route, members) +
				   TEMPOS_SMALL_MEMBERS * sizeof(struct tempos_member));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TEMPOS_NARROW);
	__uint(key_size, sizeof(__u32));
	__array(values, struct small_route_map);
} small_routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TEMPOS_NARROW * 2 * TEMPOS_GROUPS_PER_TOPIC);
	__type(key, __u32);
	__type(value, struct tempos_ticket);
} tickets SEC(".maps");

struct journal_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, TEMPOS_JOURNAL_CELL);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TEMPOS_NARROW);
	__uint(key_size, sizeof(__u32));
	__array(values, struct journal_map);
} journals SEC(".maps");

struct tempos_drawn {
	__u64 of[TEMPOS_MAX_GROUPS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_drawn);
} drawn SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, TEMPOS_MAX_EGRESS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_devmap_val));
} egress SEC(".maps");

struct fanout_map {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_devmap_val));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TEMPOS_MAX_FANOUTS);
	__uint(key_size, sizeof(__u32));
	__array(values, struct fanout_map);
} fanouts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENTS);
	__type(key, __u32);
	__type(value, struct event);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TEMPOS_NARROW);
	__type(key, __u32);
	__type(value, struct tempos_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_ports);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_pulse);
} pulse SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TEMPOS_MAX_CHECKED);
	__type(key, struct tempos_source);
	__type(value, __u32);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} asked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TEMPOS_MAX_SENDERS);
	__type(key, __u64);
	__type(value, __u64);
} learnt SEC(".maps");

const volatile struct tempos_settings settings = {};

#endif
