/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python cannot say to libbpf by itself: option structs, a print callback with a va_list, atomic
 * access to a shared mapping, and a loop of test runs without Python in it.
 *
 * Rules: nothing is decided here and nothing is kept between calls but libbpf's last warnings, per
 * thread. Errors are negative errno values. Types that outlive a call belong to libbpf; only
 * tempos_fastpath/bpf.py sees the pointers.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <linux/types.h>

#include "buckets.h"
#include "limit.h"

#define TEMPOS_NAME_LEN BPF_OBJ_NAME_LEN
/* BPF_LINK_TYPE_TCX, for headers that do not know it yet. */
#define LINK_TYPE_TCX 11

struct tempos_program_info {
	__u32 id;
	__u32 verified_insns;
	__u32 jited_len;
	__u64 run_time_ns;
	__u64 run_cnt;
	__u64 recursion_misses;
	char name[TEMPOS_NAME_LEN];
};

struct tempos_map_info {
	__u32 id;
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 flags;
	char name[TEMPOS_NAME_LEN];
};

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

struct tempos_test_run {
	__u32 retval;
	__u32 duration_ns;
	__u32 data_size_out;
};

/* ---- libbpf's own words ---------------------------------------------------------------------- */

static __thread char messages[4096];
static __thread size_t messages_len;

static int keep_warning(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char line[1024];

	if (level != LIBBPF_WARN)
		return 0;
	if (vsnprintf(line, sizeof(line), format, arguments) <= 0)
		return 0;
	/* libbpf says so at every EPERM, where the memory limit is hardly ever the cause. */
	if (strstr(line, "ulimit"))
		return 0;
	messages_len += (size_t)snprintf(messages + messages_len, sizeof(messages) - messages_len, "%s", line);
	if (messages_len >= sizeof(messages))
		messages_len = sizeof(messages) - 1;
	return 0;
}

static void tempos_messages_capture(void)
{
	libbpf_set_print(keep_warning);
}

static void tempos_messages_forget(void)
{
	messages_len = 0;
}

static __u32 tempos_messages_take(char *out, __u32 size)
{
	__u32 taken = messages_len < size ? (__u32)messages_len : size;

	memcpy(out, messages, taken);
	messages_len = 0;
	return taken;
}

/* ---- objects --------------------------------------------------------------------------------- */

static int tempos_object_open(const void *image, __u64 size, const char *name, char *log,
			      __u32 log_size, struct bpf_object **out)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = name, .kernel_log_buf = log,
		    .kernel_log_size = log_size);

	*out = bpf_object__open_mem(image, size, &opts);
	return *out ? 0 : -errno;
}

/* Sets a global variable before load; found by name in .rodata, .data and .bss. */
static int tempos_object_set_variable(struct bpf_object *object, const char *name, const void *value,
				      __u32 size)
{
	static const char *const sections[] = {".rodata", ".data", ".bss"};
	const struct btf *btf = bpf_object__btf(object);

	if (!btf)
		return -ENOENT;
	for (size_t s = 0; s < sizeof(sections) / sizeof(sections[0]); s++) {
		__s32 id = btf__find_by_name_kind(btf, sections[s], BTF_KIND_DATASEC);
		struct bpf_map *map = bpf_object__find_map_by_name(object, sections[s]);
		const struct btf_type *section = id < 0 ? NULL : btf__type_by_id(btf, id);
		const struct btf_var_secinfo *variable = section ? btf_var_secinfos(section) : NULL;

		for (int i = 0; map && section && i < btf_vlen(section); i++, variable++) {
			const struct btf_type *type = btf__type_by_id(btf, variable->type);
			size_t map_size;
			void *initial;

			if (strcmp(btf__name_by_offset(btf, type->name_off), name))
				continue;
			initial = (void *)bpf_map__initial_value(map, &map_size);
			if (!initial || variable->offset + variable->size > map_size)
				return -EINVAL;
			if (variable->size != size)
				return -EMSGSIZE;
			memcpy((char *)initial + variable->offset, value, size);
			return 0;
		}
	}
	return -ENOENT;
}

static int tempos_object_load(struct bpf_object *object)
{
	return bpf_object__load(object);
}

static void tempos_object_close(struct bpf_object *object)
{
	bpf_object__close(object);
}

static struct bpf_program *tempos_object_next_program(struct bpf_object *object, struct bpf_program *after)
{
	return bpf_object__next_program(object, after);
}

static struct bpf_map *tempos_object_next_map(struct bpf_object *object, struct bpf_map *after)
{
	return bpf_object__next_map(object, after);
}

static const char *tempos_program_name(const struct bpf_program *program)
{
	return bpf_program__name(program);
}

/* Before load: loads a program whose section is marked with "?". */
static int tempos_program_take(struct bpf_program *program)
{
	return bpf_program__set_autoload(program, true);
}

/* Negative if it was not loaded. */
static int tempos_program_fd(const struct bpf_program *program)
{
	return bpf_program__fd(program);
}

static const char *tempos_map_name(const struct bpf_map *map)
{
	return bpf_map__name(map);
}

static int tempos_map_fd(const struct bpf_map *map)
{
	return bpf_map__fd(map);
}

/* Before load: makes no such map; for one that no program uses. */
static int tempos_map_leave_out(struct bpf_map *map)
{
	return bpf_map__set_autocreate(map, false);
}

static int tempos_map_reuse(struct bpf_map *map, int fd)
{
	return bpf_map__reuse_fd(map, fd);
}

/* ---- programs -------------------------------------------------------------------------------- */

static int tempos_program_info(int fd, struct tempos_program_info *out)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info);
	int error = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (error)
		return error;
	out->id = info.id;
	out->verified_insns = info.verified_insns;
	out->jited_len = info.jited_prog_len;
	out->run_time_ns = info.run_time_ns;
	out->run_cnt = info.run_cnt;
	out->recursion_misses = info.recursion_misses;
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

static int tempos_program_name_by_id(__u32 id, char *out)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info);
	int fd = bpf_prog_get_fd_by_id(id);
	int error;

	if (fd < 0)
		return fd;
	error = bpf_obj_get_info_by_fd(fd, &info, &size);
	close(fd);
	if (!error)
		memcpy(out, info.name, TEMPOS_NAME_LEN);
	return error;
}

/* ---- maps ------------------------------------------------------------------------------------ */

static int tempos_map_info(int fd, struct tempos_map_info *out)
{
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);
	int error = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (error)
		return error;
	out->id = info.id;
	out->type = info.type;
	out->key_size = info.key_size;
	out->value_size = info.value_size;
	out->max_entries = info.max_entries;
	out->flags = info.map_flags;
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

static int tempos_map_create(const char *name, __u32 type, __u32 key_size, __u32 value_size,
			     __u32 max_entries, __u32 flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = flags);

	return bpf_map_create(type, name, key_size, value_size, max_entries, &opts);
}

static int tempos_map_lookup(int fd, const void *key, void *value)
{
	return bpf_map_lookup_elem(fd, key, value);
}

static int tempos_map_update(int fd, const void *key, const void *value, __u64 flags)
{
	return bpf_map_update_elem(fd, key, value, flags);
}

/* The key after `key`, or the first for NULL; -ENOENT after the last. */
static int tempos_map_next_key(int fd, const void *key, void *next)
{
	return bpf_map_get_next_key(fd, key, next);
}

/* Of a map of maps, user space reads an inner map's id where it wrote a descriptor. */
static int tempos_map_by_id(__u32 id)
{
	return bpf_map_get_fd_by_id(id);
}

static int tempos_map_delete(int fd, const void *key)
{
	return bpf_map_delete_elem(fd, key);
}

/*
 * Sums each row of a per-CPU array, `words` u64 a row, over the CPUs into `sums`. `values` is scratch
 * for one row of every CPU.
 */
static int tempos_map_sum_rows(int fd, __u32 rows, __u32 words, int cpus, __u64 *values, __u64 *sums)
{
	for (__u32 row = 0; row < rows; row++, sums += words) {
		int error = bpf_map_lookup_elem(fd, &row, values);

		if (error)
			return error;
		memset(sums, 0, words * sizeof(*sums));
		for (int cpu = 0; cpu < cpus; cpu++)
			for (__u32 word = 0; word < words; word++)
				sums[word] += values[cpu * words + word];
	}
	return 0;
}

static int tempos_possible_cpus(void)
{
	return libbpf_num_possible_cpus();
}

/* ---- XDP and tcx links ----------------------------------------------------------------------- */

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

/* ---- tracing --------------------------------------------------------------------------------- */

/* A `tp_btf` program: what it is attached to stands in it. */
static int tempos_tracing_attach(int program_fd)
{
	return bpf_raw_tracepoint_open(NULL, program_fd);
}

/* ---- pins ------------------------------------------------------------------------------------ */

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

static int tempos_stats_enable(void)
{
	return bpf_enable_stats(BPF_STATS_RUN_TIME);
}

/* ---- test runs ------------------------------------------------------------------------------- */

static struct xdp_md frame_context(__u32 size, __u32 ingress_ifindex)
{
	return (struct xdp_md){.data_end = size, .ingress_ifindex = ingress_ifindex};
}

static int tempos_run(int program_fd, const void *data_in, __u32 size_in, void *data_out, __u32 size_out,
		      __u32 ingress_ifindex, __u32 repeat, struct tempos_test_run *out)
{
	struct xdp_md context = frame_context(size_in, ingress_ifindex);
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = data_in, .data_size_in = size_in,
		    .data_out = data_out, .data_size_out = size_out, .repeat = (int)repeat);
	int error;

	if (ingress_ifindex) {
		opts.ctx_in = &context;
		opts.ctx_size_in = sizeof(context);
	}
	error = bpf_prog_test_run_opts(program_fd, &opts);
	out->retval = opts.retval;
	out->duration_ns = opts.duration;
	out->data_size_out = opts.data_size_out;
	return error;
}

static int tempos_run_live(int program_fd, const void *data_in, __u32 size_in, __u32 ingress_ifindex,
			   __u32 repeat, __u32 batch)
{
	struct xdp_md context = frame_context(size_in, ingress_ifindex);
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = data_in, .data_size_in = size_in, .ctx_in = &context,
		    .ctx_size_in = sizeof(context), .repeat = (int)repeat, .batch_size = batch,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES);

	return bpf_prog_test_run_opts(program_fd, &opts);
}

/*
 * Runs the program once on each of `count` frames that lie one after another; stops at the first
 * error of the kernel and gives how many ran.
 */
static int tempos_run_each(int program_fd, const __u8 *frames, const __u32 *sizes, __u32 count,
			   __u32 ingress_ifindex, __u32 *retvals)
{
	for (__u32 i = 0; i < count; frames += sizes[i], i++) {
		struct tempos_test_run result;
		int error = tempos_run(program_fd, frames, sizes[i], NULL, 0, ingress_ifindex, 1, &result);

		if (error)
			return i ? (int)i : error;
		retvals[i] = result.retval;
	}
	return (int)count;
}

/* ---- shared counters ------------------------------------------------------------------------- */

static __u64 tempos_atomic_fetch_add(void *slot, __u64 count)
{
	return __atomic_fetch_add((__u64 *)slot, count, __ATOMIC_RELAXED);
}

static __u64 tempos_atomic_load(const void *slot)
{
	return __atomic_load_n((const __u64 *)slot, __ATOMIC_RELAXED);
}

static void tempos_atomic_store(void *slot, __u64 value)
{
	__atomic_store_n((__u64 *)slot, value, __ATOMIC_RELAXED);
}
