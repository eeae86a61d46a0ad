/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts frames that the kernel lost after the fast path had handed them over: behind the redirect no
 * XDP program sees them any more, but two tracepoints do.
 *
 *   xdp_redirect_err   refused at once: the interface is down, takes no redirected frames, the frame is
 *                      too big for it, or there was no memory for a copy. Counted if it was a redirect
 *                      through our `egress` map, or of what came in where our program is attached.
 *   xdp_devmap_xmit    the device took fewer frames than it was given: its ring is full (no error),
 *                      or it failed. Counted if the frames came in where our program is attached, in
 *                      our network namespace.
 *
 * Where the frames were copies for several groups, the egress program has counted them as sent, and kept
 * in mind which they were. The kernel calls the second tracepoint right after, once for each lot that an
 * interface was given, and what it did not take are the last of them: those are taken back.
 *
 * Rules: counts only, changes nothing. Native mode only for the second: generic mode sends without that
 * tracepoint.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "copies.h"

#define MAX_DROPS 1024
#define MAX_INGRESS 256

struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct bpf_prog;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct bpf_dtab_netdev {
	struct net_device *dev;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DROPS);
	__type(key, struct tempos_drop);
	__type(value, __u64);
} drops SEC(".maps");

/* The interfaces that carry our program. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_INGRESS);
	__type(key, __u32);
	__type(value, __u8);
} ingress SEC(".maps");

/* Both fixed at load. */
const volatile __u64 our_namespace = 0;
const volatile __u32 our_egress = 0;

static __always_inline void count(__u32 ifindex, int error, __u32 frames)
{
	struct tempos_drop key = {.ifindex = ifindex, .error = error < 0 ? -error : error};
	const __u64 none = 0;
	__u64 *counted = bpf_map_lookup_elem(&drops, &key);

	if (!counted) {
		/* Another CPU may be first: then its entry is the one to count in. */
		bpf_map_update_elem(&drops, &key, &none, BPF_NOEXIST);
		counted = bpf_map_lookup_elem(&drops, &key);
	}
	if (counted)
		__sync_fetch_and_add(counted, frames);
}

static __always_inline bool came_in_here(const struct net_device *from)
{
	__u32 source = BPF_CORE_READ(from, ifindex);

	return BPF_CORE_READ(from, nd_net.net, net_cookie) == our_namespace &&
	       bpf_map_lookup_elem(&ingress, &source);
}

/* What the device at hand did not take, the egress program's own refusals aside, was not sent after all. */
static __always_inline void take_back(const struct sending *state, __u32 dropped)
{
	__u32 untaken = dropped - state->refused;
	__u32 passed = state->passed;

	for (__u32 i = 0; i < BULK && i < untaken && i < passed; i++) {
		__u32 what = state->log[(passed - 1 - i) % BULK];
		__u32 row = what / TEMPOS_MAX_GROUPS;
		struct tempos_copies *account;

		if (what == NO_COPY)
			continue;
		account = bpf_map_lookup_elem(&copies, &row);
		if (account)
			account->sent[what % TEMPOS_MAX_GROUPS]--;
	}
}

/* The arguments of xdp_redirect_err; `target` is a plain void pointer. */
enum { REDIRECT_FROM, REDIRECT_PROGRAM, REDIRECT_TARGET, REDIRECT_ERROR, REDIRECT_MAP_TYPE, REDIRECT_MAP_ID };

/*
 * The interface that a refused frame was for; 0: none. Up to 6.12 at least the verifier lets no program load
 * an argument of the type `const void *`, so it is copied out.
 */
static __always_inline __u32 target_of(const __u64 *arguments)
{
	const struct bpf_dtab_netdev *target = NULL;

	bpf_probe_read_kernel(&target, sizeof(target), &arguments[REDIRECT_TARGET]);
	return target ? BPF_CORE_READ(target, dev, ifindex) : 0;
}

SEC("tp_btf/xdp_redirect_err")
int tempos_refused(const __u64 *arguments)
{
	const struct net_device *from = (const struct net_device *)arguments[REDIRECT_FROM];

	if ((__u32)arguments[REDIRECT_MAP_ID] == our_egress || came_in_here(from))
		count(target_of(arguments), (int)arguments[REDIRECT_ERROR], 1);
	return 0;
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(tempos_unsent, const struct net_device *from, const struct net_device *to, int sent,
	     int dropped, int error)
{
	const __u32 only = 0;
	struct sending *state = bpf_map_lookup_elem(&sending, &only);

	if (dropped > 0) {
		if (state)
			take_back(state, dropped);
		if (came_in_here(from))
			count(BPF_CORE_READ(to, ifindex), error, dropped);
	}
	if (state) {
		state->passed = 0;
		state->refused = 0;
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
