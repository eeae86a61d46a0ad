/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects, from open to close, and the programs in them. Maps of an object are found here; what is in a map
 * is libbpf_maps.h's.
 */
#ifndef TEMPOS_LIBBPF_OBJECTS_H
#define TEMPOS_LIBBPF_OBJECTS_H

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#define TEMPOS_NAME_LEN BPF_OBJ_NAME_LEN

struct tempos_program_info {
	__u32 id;
	__u32 verified_insns;
	__u32 jited_len;
	__u64 run_time_ns;
	__u64 run_cnt;
	__u64 recursion_misses;
	char name[TEMPOS_NAME_LEN];
};

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

/* What it is and where it belongs, for instance "tp_btf/sched_switch". */
static const char *tempos_program_section(const struct bpf_program *program)
{
	return bpf_program__section_name(program);
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

/* Before load: how many entries a map is made with. */
static int tempos_map_resize(struct bpf_map *map, __u32 max_entries)
{
	return bpf_map__set_max_entries(map, max_entries);
}

static int tempos_map_reuse(struct bpf_map *map, int fd)
{
	return bpf_map__reuse_fd(map, fd);
}

static int offset_in(const struct btf *btf, const char *type, const char *member)
{
	__s32 id = btf__find_by_name_kind(btf, type, BTF_KIND_STRUCT);
	const struct btf_type *found = id < 0 ? NULL : btf__type_by_id(btf, id);

	for (__u32 i = 0; found && i < btf_vlen(found); i++) {
		const char *name = btf__name_by_offset(btf, btf_members(found)[i].name_off);

		if (name && !strcmp(name, member))
			return (int)(btf_member_bit_offset(found, i) / 8);
	}
	return -ENOENT;
}

/*
 * Bytes from the begin of one of the kernel's structs to a member, by the kernel's own description of its types; of
 * what may be part of a module, that one's. It needs no privilege, other than asking the kernel for a module's by id.
 */
static int tempos_member_offset(const char *module, const char *type, const char *member)
{
	struct btf *kernel = btf__load_vmlinux_btf();
	int offset = kernel ? offset_in(kernel, type, member) : -errno;

	if (offset == -ENOENT) {
		struct btf *added = btf__load_module_btf(module, kernel);

		if (added)
			offset = offset_in(added, type, member);
		btf__free(added);
	}
	btf__free(kernel);
	return offset;
}

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

#endif
