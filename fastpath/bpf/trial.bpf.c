/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether an interface takes redirected frames, found out by giving it one: before Linux 6.3 no kernel tells, and
 * a driver may tell what does not hold.
 *
 *   tempos_try       redirects a frame, as the fast path does; run by user space on a frame of its own, once
 *   tempos_taken     sees what the interface did with it
 *   tempos_not_taken sees that it was refused before it got there
 *
 * Rules: what else is redirected on this machine is left out: the frame comes from our namespace's loopback, where
 * nobody attaches XDP, and goes to the one interface. Loaded for one trial and gone after it.
 */
#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"

#define LOOPBACK 1

struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} target SEC(".maps");

/* TEMPOS_TRIAL_*: frames taken, frames not taken, and the errno of the latter, if there was one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPOS_TRIAL_ERROR + 1);
	__type(key, __u32);
	__type(value, __u32);
} outcome SEC(".maps");

/* Both fixed at load. */
const volatile __u64 our_namespace = 0;
const volatile __u32 tried = 0;

static __always_inline bool is_ours(const struct net_device *from)
{
	return BPF_CORE_READ(from, ifindex) == LOOPBACK &&
	       BPF_CORE_READ(from, nd_net.net, net_cookie) == our_namespace;
}

static __always_inline void tell(__u32 what, __u32 value)
{
	bpf_map_update_elem(&outcome, &what, &value, BPF_ANY);
}

static __always_inline void tell_refused(__u32 frames, int error)
{
	tell(TEMPOS_TRIAL_REFUSED, frames);
	tell(TEMPOS_TRIAL_ERROR, error < 0 ? -error : error);
}

SEC("xdp")
int tempos_try(struct xdp_md *ctx)
{
	return bpf_redirect_map(&target, 0, 0);
}

/* The arguments of xdp_redirect_err; they are read as in drops.bpf.c. */
enum { REDIRECT_FROM, REDIRECT_ERROR = 3 };

SEC("tp_btf/xdp_redirect_err")
int tempos_not_taken(const __u64 *arguments)
{
	if (is_ours((const struct net_device *)arguments[REDIRECT_FROM]))
		tell_refused(1, (int)arguments[REDIRECT_ERROR]);
	return 0;
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(tempos_taken, const struct net_device *from, const struct net_device *to, int sent, int dropped,
	     int error)
{
	if (!is_ours(from) || BPF_CORE_READ(to, ifindex) != tried)
		return 0;
	if (sent > 0)
		tell(TEMPOS_TRIAL_TAKEN, sent);
	if (dropped > 0)
		tell_refused(dropped, error);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
