/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Of the kernel's structs the members that observing programs look at. Where they lie is found out when a program
 * is loaded (CO-RE), so a struct here has no other members, and in no particular order.
 *
 * A name with three underscores is the struct before them as other kernels have it; which one is at hand is asked
 * by bpf_core_field_exists.
 */
#ifndef TEMPOS_KERNEL_H
#define TEMPOS_KERNEL_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

#define S_IFMT 0170000
#define S_IFSOCK 0140000

#define AT_FDCWD (-100)
#define AT_REMOVEDIR 0x200
#define FMODE_CREATED 0x100000
#define MSG_PEEK 2
#define NAME_MAX 255
#define PATH_MAX 4096
#define TASK_DEAD 0x80
#define TS_COMPAT 2 /* the system call at hand is one of a 32-bit program */

#define TASK_COMM_LEN 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct proto {
	char name[32];
};

struct sock_common {
	struct proto *skc_prot;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sk_buff_head {
	__u32 qlen;
};

struct super_block {
	unsigned long s_magic;
};

struct qstr {
	__u32 hash;
	const unsigned char *name;
};

struct hlist_bl_node {
	struct hlist_bl_node *next, **pprev;
};

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct path {
	struct dentry *dentry;
};

struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct file {
	unsigned int f_mode;
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};

struct socket {
	short type;
	struct file *file;
	struct sock *sk;
};

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	int sk_err;
	__u16 sk_type;
	__u16 sk_protocol;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	unsigned int len;
	unsigned char *head;
	unsigned int end;
	__be16 protocol;
	__u16 transport_header;
	__u16 network_header;
	int skb_iif;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path pwd;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
};

struct rq {
	__u64 clock;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
};

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
	unsigned long long last_queued;
};

struct thread_info {
	__u32 status;
	__u32 cpu;
};

struct signal_struct;

struct task_struct {
	int pid;
	int tgid;
	int prio;
	char comm[TASK_COMM_LEN];
	struct thread_info thread_info;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct sched_entity se;
	struct sched_info sched_info;
	struct task_struct *group_leader;
	struct signal_struct *signal;
};

/* The registers that a system call began with, as x86-64 keeps them. */
struct pt_regs {
	unsigned long bx;
	unsigned long r8;
	unsigned long r10;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long ax;
	unsigned long orig_ax;
	unsigned long ip;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* Their numbers differ from kernel to kernel: bpf_core_enum_value. */
enum skb_drop_reason {
	SKB_DROP_REASON_SOCKET_RCVBUFF = 6,
	SKB_DROP_REASON_OTHERHOST = 13,
	SKB_DROP_REASON_PROTO_MEM = 20,
};

#endif
