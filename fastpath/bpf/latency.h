/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The view of latency from inside the kernel: two histograms for each topic, of the events that a program
 * forwards (struct tempos_latency).
 *
 *   program      from the entry of the ingress program to its redirect, or of the tc program to its last copy
 *   since_sent   from the send time that an event carries to that same moment
 *
 * Rules kept here:
 *  - Only the entries that are loaded where the view is wanted (`tempos_timed`, `tempos_clone_timed`) come
 *    here. The others are compiled without it: not an instruction is there for what is switched off.
 *  - Each event that is counted as forwarded is in `program` once, and in `since_sent` once if it is of a topic
 *    with event framing: in a bucket, or under `beyond` or `ahead`.
 *  - Send times are of the publisher's CLOCK_REALTIME. Programs can read CLOCK_TAI, which is ahead of it by the
 *    leap seconds as far as the machine was told of them; user space writes that difference beside its pulse.
 *  - Nothing here decides anything: all of it comes after the redirect.
 */
#ifndef TEMPOS_LATENCY_H
#define TEMPOS_LATENCY_H

#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "buckets.h"
#include "maps.h"

#define SENT_AT (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr) + \
		 offsetof(struct tempos_event_header, sent_ns))

/* User space leaves it out where no program that uses it is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TEMPOS_NARROW);
	__type(key, __u32);
	__type(value, struct tempos_latency);
} latency SEC(".maps");

static __always_inline void add_time(struct tempos_histogram *histogram, __u64 ns)
{
	__u32 bucket;

	if (ns >= TEMPOS_LATENCY_BEYOND) {
		histogram->beyond++;
		return;
	}
	bucket = tempos_bucket_of(ns);
	asm volatile("" : "+r"(bucket));
	if (bucket < TEMPOS_LATENCY_BUCKETS)
		histogram->bucket[bucket]++;
	if (ns > histogram->longest)
		histogram->longest = ns;
}

/* Global functions: the verifier looks at each by itself, once. Per CPU, so plain increments lose nothing. */
__noinline int count_program(__u32 topic, __u64 ns)
{
	struct tempos_latency *row = bpf_map_lookup_elem(&latency, &topic);

	if (row)
		add_time(&row->program, ns);
	return 0;
}

/* `sent_ns` as the event has it. */
__noinline int count_since_sent(__u32 topic, __u64 sent_ns)
{
	struct tempos_latency *row = bpf_map_lookup_elem(&latency, &topic);
	const __u32 only = 0;
	const struct tempos_pulse *life = bpf_map_lookup_elem(&pulse, &only);
	__u64 now;

	if (!row || !life)
		return 0;
	now = bpf_ktime_get_tai_ns() - life->tai_offset_ns;
	if (sent_ns > now)
		row->since_sent.ahead++;
	else
		add_time(&row->since_sent, now - sent_ns);
	return 0;
}

/* What a program does once it has forwarded an event whose first byte lies at `frame`. */
static __always_inline void count_latency(__u32 topic, __u8 framing, __u64 entered, const void *frame,
					  const void *end)
{
	count_program(topic, bpf_ktime_get_ns() - entered);
	if (framing == TEMPOS_FRAMING_EVENT && frame + SENT_AT + sizeof(__be64) <= end)
		count_since_sent(topic, bpf_be64_to_cpu(*(const __be64 *)(frame + SENT_AT)));
}

#endif
