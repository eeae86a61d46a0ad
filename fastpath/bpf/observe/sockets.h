/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What several tools ask of a socket or a packet: its addresses, its namespace, whose it is.
 *
 * A socket does not know its process; its file does, and who has that open is told by an iterator over all files
 * when somebody asks. Both know the inode.
 */
#ifndef TEMPOS_SOCKETS_H
#define TEMPOS_SOCKETS_H

#include <bpf/bpf_endian.h>

#include "observe.h"

#define ADDRESS_LEN 16
#define FRAGMENT_OFFSET 0x1fff

/* Of IPv4 the first four bytes of an address. Ports in the machine's own order. */
struct tempos_ends {
	__u8 local[ADDRESS_LEN];
	__u8 remote[ADDRESS_LEN];
	__u16 local_port;
	__u16 remote_port;
	__u16 family;
	__u16 pad;
};

static __always_inline __u32 namespace_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/* Of the file that a process has it open by; 0: none has. */
static __always_inline __u64 inode_of(const struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);
	struct socket_alloc *whole;

	if (!socket)
		return 0;
	whole = (void *)socket - bpf_core_field_offset(struct socket_alloc, socket);
	return BPF_CORE_READ(whole, vfs_inode.i_ino);
}

static __always_inline void ends_of(const struct sock *sk, struct tempos_ends *ends)
{
	ends->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	ends->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	ends->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (ends->family == AF_INET) {
		BPF_CORE_READ_INTO((__be32 *)ends->local, sk, __sk_common.skc_rcv_saddr);
		BPF_CORE_READ_INTO((__be32 *)ends->remote, sk, __sk_common.skc_daddr);
	} else if (ends->family == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)ends->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)ends->remote, sk, __sk_common.skc_v6_daddr);
	}
}

/* The headers of a packet as far as they are looked at. Filled by read_packet. */
struct packet {
	__u8 source[ADDRESS_LEN];
	__u8 destination[ADDRESS_LEN];
	__u16 source_port;
	__u16 destination_port;
	__u16 family;
	__u8 protocol;      /* what stands behind the IP header; of IPv6 its extension headers are not gone through */
	bool later;         /* a fragment that is not the first: without ports */
};

struct ipv4_header {
	__u8 version_and_length;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 version_and_flow;
	__be16 length;
	__u8 next;
	__u8 hops;
	struct in6_addr source;
	struct in6_addr destination;
};

/* False: it is not IP. */
static __always_inline bool read_packet(const struct sk_buff *skb, struct packet *to)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	const unsigned char *network = head + BPF_CORE_READ(skb, network_header);
	__u16 protocol = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	__be16 ports[2] = {};
	__u32 length;

	if (protocol == ETH_P_IP) {
		struct ipv4_header ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), network))
			return false;
		to->family = AF_INET;
		to->protocol = ip.protocol;
		to->later = bpf_ntohs(ip.fragment) & FRAGMENT_OFFSET;
		__builtin_memcpy(to->source, &ip.source, sizeof(ip.source));
		__builtin_memcpy(to->destination, &ip.destination, sizeof(ip.destination));
		length = (ip.version_and_length & 15) * 4;
	} else if (protocol == ETH_P_IPV6) {
		struct ipv6_header ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), network))
			return false;
		to->family = AF_INET6;
		to->protocol = ip.next;
		__builtin_memcpy(to->source, &ip.source, sizeof(ip.source));
		__builtin_memcpy(to->destination, &ip.destination, sizeof(ip.destination));
		length = sizeof(ip);
	} else {
		return false;
	}
	if (!to->later && !bpf_probe_read_kernel(ports, sizeof(ports), network + length)) {
		to->source_port = bpf_ntohs(ports[0]);
		to->destination_port = bpf_ntohs(ports[1]);
	}
	return true;
}

/* How many datagrams a buffer holds: more than one where the kernel has joined them, or not yet cut them. */
static __always_inline __u32 datagrams_in(const struct sk_buff *skb)
{
	const struct skb_shared_info *shared =
		(const void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
	__u16 segments = BPF_CORE_READ(shared, gso_segs);

	return BPF_CORE_READ(shared, gso_size) && segments ? segments : 1;
}

struct tempos_owner {
	__u64 inode;
	__u32 pid;
	char comm[COMM_LEN];
	__u32 pad;
};

SHOWN(tempos_owner);

/* Every socket that a process has open. */
SEC("?iter/task_file")
int tempos_owners(struct bpf_iter__task_file *context)
{
	struct tempos_owner owner = {};
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct inode *inode;

	if (!task || !file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	owner.inode = BPF_CORE_READ(inode, i_ino);
	owner.pid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_STR_INTO(&owner.comm, task, comm);
	bpf_seq_write(context->meta->seq, &owner, sizeof(owner));
	return 0;
}

#endif
