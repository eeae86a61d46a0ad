/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sees socket buffers where they still have what the XDP programs cannot see (beside.h), and tells them.
 *
 *   tempos_note        the kernel is about to receive a socket buffer, and generic XDP is the next that gets it, on
 *                      the same CPU: notes whether it has a VLAN tag, or is a burst.
 *   tempos_hear        the same place, for the interfaces in `watched`, whose programs run before it: a tagged frame
 *                      that they passed, as the first of a VLAN is (it asks for a MAC).
 *   tempos_hear_veth   a veth is about to hand a tagged frame to its peer, which is in `watched`: that frame's tag
 *                      shows nowhere later, and it has not arrived yet.
 *
 * Rules: changes nothing, and each looks further only if there is a tag. All network namespaces come by here; only
 * ours is meant.
 */
#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "beside.h"

#define MAX_WATCHED 256
/* What the kernel aligns a device's private part to. */
#define PRIVATE_ALIGN 32

struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct rtnl_link_ops {
	const char *kind;
} __attribute__((preserve_access_index));

struct net_device {
	int ifindex;
	possible_net_t nd_net;
	const struct rtnl_link_ops *rtnl_link_ops;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned char *head;
	unsigned int end;
} __attribute__((preserve_access_index));

/* How a tag is marked, since 6.2 and before. */
struct sk_buff___word {
	__u32 vlan_all;
} __attribute__((preserve_access_index));

struct sk_buff___bit {
	__u8 vlan_present : 1;
} __attribute__((preserve_access_index));

struct skb_shared_info {
	unsigned short gso_size;
} __attribute__((preserve_access_index));

extern void *bpf_rdonly_cast(const void *address, __u32 btf_id) __ksym __weak;

/* Interfaces whose program cannot tell -> tagged frames that were heard of there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WATCHED);
	__type(key, __u32);
	__type(value, __u64);
} watched SEC(".maps");

/* Fixed at load. */
const volatile __u64 our_namespace = 0;

static __always_inline bool tagged(const struct sk_buff *skb)
{
	if (bpf_core_field_exists(struct sk_buff___word, vlan_all))
		return ((const struct sk_buff___word *)skb)->vlan_all;
	return BPF_CORE_READ_BITFIELD((const struct sk_buff___bit *)skb, vlan_present);
}

static __always_inline bool is_burst(const struct sk_buff *skb)
{
	const struct skb_shared_info *shared = (const void *)(skb->head + skb->end);

	/* Linux 6.2 reads it in place; before, it is copied. */
	if (bpf_rdonly_cast) {
		shared = bpf_rdonly_cast(shared, bpf_core_type_id_kernel(struct skb_shared_info));
		return shared->gso_size;
	}
	return BPF_CORE_READ(shared, gso_size);
}

static __always_inline void hear(const struct net_device *where)
{
	const __u32 all = TEMPOS_HEARD_FRAMES;
	__u32 ifindex = BPF_CORE_READ(where, ifindex);
	__u64 *here;
	__u32 *frames;

	if (BPF_CORE_READ(where, nd_net.net, net_cookie) != our_namespace)
		return;
	here = bpf_map_lookup_elem(&watched, &ifindex);
	frames = bpf_map_lookup_elem(&heard, &all);
	if (!here || !frames)
		return;
	/* In this order: who sees the second finds the first. */
	__sync_fetch_and_add(here, 1);
	__sync_fetch_and_add(frames, 1);
}

SEC("?tp_btf/netif_receive_skb")
int BPF_PROG(tempos_note, const struct sk_buff *skb)
{
	const __u32 only = 0;
	__u32 *note = bpf_map_lookup_elem(&notes, &only);

	if (note)
		*note = (tagged(skb) ? NOTED_TAG : 0) | (is_burst(skb) ? NOTED_BURST : 0);
	return 0;
}

SEC("?tp_btf/netif_receive_skb")
int BPF_PROG(tempos_hear, const struct sk_buff *skb)
{
	if (tagged(skb))
		hear(skb->dev);
	return 0;
}

SEC("?tp_btf/net_dev_start_xmit")
int BPF_PROG(tempos_hear_veth, const struct sk_buff *skb, const struct net_device *from)
{
	const struct net_device *peer;
	char kind[5] = {};
	__u32 size;

	if (!tagged(skb))
		return 0;
	bpf_probe_read_kernel_str(kind, sizeof(kind), BPF_CORE_READ(from, rtnl_link_ops, kind));
	if (kind[0] != 'v' || kind[1] != 'e' || kind[2] != 't' || kind[3] != 'h')
		return 0;
	/* The first thing in a veth's private part is its peer; that struct may be a module's, out of our sight. */
	size = bpf_core_type_size(struct net_device);
	size = (size + PRIVATE_ALIGN - 1) & ~(PRIVATE_ALIGN - 1);
	if (!bpf_probe_read_kernel(&peer, sizeof(peer), (const void *)from + size) && peer)
		hear(peer);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
