/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where programs are attached, and what keeps them there: links of XDP and tcx, pins, and the file system that
 * pins are in. Programs that look on: libbpf_tracing.h.
 */
#ifndef TEMPOS_LIBBPF_LINKS_H
#define TEMPOS_LIBBPF_LINKS_H

#include <errno.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/magic.h>

/* BPF_LINK_TYPE_TCX, for headers that do not know it yet. */
#define LINK_TYPE_TCX 11

struct tempos_xdp_query {
	__u32 prog_id;
	__u32 drv_prog_id;
	__u32 skb_prog_id;
	__u32 hw_prog_id;
	__u32 attach_mode;
};

struct tempos_link_info {
	__u32 id;
	__u32 type;
	__u32 prog_id;
	__u32 ifindex;
};

static int tempos_xdp_attach(int program_fd, int ifindex, bool generic)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);

	return bpf_link_create(program_fd, ifindex, BPF_XDP, &opts);
}

/*
 * Puts a tc program on what comes in by an interface, through a link of its own (tcx, Linux 6.6), behind
 * those that are there. Headers and libbpf may be older than that, so the number stands here.
 */
static int tempos_tcx_attach(int program_fd, int ifindex)
{
	const enum bpf_attach_type tcx_ingress = 46;

	return bpf_link_create(program_fd, ifindex, tcx_ingress, NULL);
}

/* Whether the kernel has such links: then it tells how many programs they hold at an interface, here loopback. */
static bool tempos_tcx_known(void)
{
	const enum bpf_attach_type tcx_ingress = 46;
	const int loopback = 1;
	__u32 count = 0;

	return bpf_prog_query(loopback, tcx_ingress, 0, NULL, NULL, &count) != -EINVAL;
}

static int tempos_xdp_query(int ifindex, struct tempos_xdp_query *out)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, opts);
	int error = bpf_xdp_query(ifindex, 0, &opts);

	if (error)
		return error;
	out->prog_id = opts.prog_id;
	out->drv_prog_id = opts.drv_prog_id;
	out->skb_prog_id = opts.skb_prog_id;
	out->hw_prog_id = opts.hw_prog_id;
	out->attach_mode = opts.attach_mode;
	return 0;
}

static int tempos_link_update(int link_fd, int program_fd)
{
	return bpf_link_update(link_fd, program_fd, NULL);
}

/* Takes the program off, whoever else still holds the link or a pin of it. */
static int tempos_link_detach(int link_fd)
{
	return bpf_link_detach(link_fd);
}

/* `ifindex` is 0 of a link that is detached, for instance because its interface is gone. */
static int tempos_link_info(int link_fd, struct tempos_link_info *out)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	int error = bpf_obj_get_info_by_fd(link_fd, &info, &size);

	if (error)
		return error;
	out->id = info.id;
	out->type = info.type;
	out->prog_id = info.prog_id;
	/* A tcx link's index stands where an XDP link's does. */
	out->ifindex = info.type == BPF_LINK_TYPE_XDP || info.type == LINK_TYPE_TCX ? info.xdp.ifindex : 0;
	return 0;
}

static int tempos_pin(int fd, const char *path)
{
	return bpf_obj_pin(fd, path);
}

static int tempos_pinned(const char *path)
{
	return bpf_obj_get(path);
}

/* 1: a BPF file system, 0: something else. */
static int tempos_bpffs_is(const char *path)
{
	struct statfs found;

	if (statfs(path, &found))
		return -errno;
	return found.f_type == BPF_FS_MAGIC;
}

static int tempos_bpffs_mount(const char *path)
{
	return mount("bpf", path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") ? -errno : 0;
}

#endif
