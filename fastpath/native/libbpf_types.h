/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Types as they describe themselves (BTF): the structs and variables of an object, so that nobody needs a copy of
 * them, and the kernel's own enumerations and tracepoints.
 */
#ifndef TEMPOS_LIBBPF_TYPES_H
#define TEMPOS_LIBBPF_TYPES_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#define TEMPOS_MEMBER_NAME 64

enum tempos_kind { TEMPOS_UNSIGNED, TEMPOS_SIGNED, TEMPOS_TEXT, TEMPOS_BYTES };

/* A member that is `count` values of `size` bytes; of text and bytes the size is 1. 0: a value of its own, no array. */
struct tempos_member {
	char name[TEMPOS_MEMBER_NAME];
	__u32 offset;
	__u32 size;
	__u32 count;
	__u32 kind;
};

struct members {
	const struct btf *btf;
	struct tempos_member *out;
	__u32 room, used;
};

static int add_member(struct members *to, const char *name, __u32 offset, __u32 size, __u32 count, __u32 kind)
{
	struct tempos_member *member;

	if (to->used == to->room)
		return -E2BIG;
	member = &to->out[to->used++];
	snprintf(member->name, sizeof(member->name), "%s", name);
	member->offset = offset;
	member->size = size;
	member->count = count;
	member->kind = kind;
	return 0;
}

static const struct btf_type *bare_type(const struct btf *btf, __u32 id)
{
	const struct btf_type *type = btf__type_by_id(btf, id);

	while (type && (btf_is_mod(type) || btf_is_typedef(type)))
		type = btf__type_by_id(btf, type->type);
	return type;
}

/* What a value is made of, structs inside it taken apart; a union or a bit field is refused: -ENOTSUP. */
static int take_apart(struct members *to, const char *name, const struct btf_type *type, __u32 offset)
{
	char inner[TEMPOS_MEMBER_NAME];
	int error = 0;

	if (!type)
		return -EINVAL;
	if (btf_is_int(type)) {
		bool is_signed = btf_int_encoding(type) & BTF_INT_SIGNED;

		return add_member(to, name, offset, type->size, 0, is_signed ? TEMPOS_SIGNED : TEMPOS_UNSIGNED);
	}
	if (btf_is_any_enum(type))
		return add_member(to, name, offset, type->size, 0, TEMPOS_UNSIGNED);
	if (btf_is_array(type)) {
		const struct btf_array *array = btf_array(type);
		const struct btf_type *element = bare_type(to->btf, array->type);
		const char *word;
		__u32 kind;

		if (!element || !btf_is_int(element))
			return -ENOTSUP;
		word = btf__name_by_offset(to->btf, element->name_off);
		kind = btf_int_encoding(element) & BTF_INT_SIGNED ? TEMPOS_SIGNED : TEMPOS_UNSIGNED;
		if (element->size == 1)
			kind = word && !strcmp(word, "char") ? TEMPOS_TEXT : TEMPOS_BYTES;
		return add_member(to, name, offset, element->size, array->nelems, kind);
	}
	if (!btf_is_struct(type))
		return -ENOTSUP;
	for (__u32 i = 0; !error && i < btf_vlen(type); i++) {
		const char *word = btf__name_by_offset(to->btf, btf_members(type)[i].name_off);
		const struct btf_type *member = bare_type(to->btf, btf_members(type)[i].type);

		if (btf_member_bitfield_size(type, i))
			return -ENOTSUP;
		if ((size_t)snprintf(inner, sizeof(inner), "%s%s%s", name, *name ? "_" : "", word) >= sizeof(inner))
			return -ENAMETOOLONG;
		error = take_apart(to, inner, member, offset + btf_member_bit_offset(type, i) / 8);
	}
	return error;
}

/* The number of a struct of the object, by its name without "struct". */
static int tempos_type_find(const struct bpf_object *object, const char *name)
{
	const struct btf *btf = bpf_object__btf(object);

	return btf ? btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT) : -ENOENT;
}

/* The members of a type of the object; gives how many there are, in `size` how large the whole is. */
static int tempos_type_members(const struct bpf_object *object, __u32 id, struct tempos_member *out, __u32 room,
			       __u32 *size)
{
	struct members to = {.btf = bpf_object__btf(object), .out = out, .room = room};
	long long whole = to.btf ? btf__resolve_size(to.btf, id) : -ENOENT;
	int error = whole < 0 ? (int)whole : take_apart(&to, "", bare_type(to.btf, id), 0);

	*size = whole < 0 ? 0 : (__u32)whole;
	return error ? error : (int)to.used;
}

/* The types of a map's key and value; 0 where it has none. */
static void tempos_map_types(const struct bpf_map *map, __u32 *key, __u32 *value)
{
	*key = bpf_map__btf_key_type_id(map);
	*value = bpf_map__btf_value_type_id(map);
}

/* The `index`th variable that is 0 at load (.bss): its name, and its value now in `out`. Gives its size; -ENOENT: no more. */
static int tempos_variable_at(const struct bpf_object *object, __u32 index, const char **name, void *out, __u32 room)
{
	const struct btf *btf = bpf_object__btf(object);
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".bss");
	__s32 id = btf ? btf__find_by_name_kind(btf, ".bss", BTF_KIND_DATASEC) : -ENOENT;
	const struct btf_type *section = id < 0 ? NULL : btf__type_by_id(btf, id);
	const struct btf_var_secinfo *variable;
	const __u32 only = 0;
	char *memory;
	int error;

	if (!map || !section || index >= btf_vlen(section))
		return -ENOENT;
	variable = btf_var_secinfos(section) + index;
	if (variable->offset + variable->size > bpf_map__value_size(map))
		return -EINVAL;
	/* The initial value that libbpf keeps is not what programs write: that is in the map. */
	memory = malloc(bpf_map__value_size(map));
	if (!memory)
		return -ENOMEM;
	error = bpf_map_lookup_elem(bpf_map__fd(map), &only, memory);
	if (!error) {
		*name = btf__name_by_offset(btf, btf__type_by_id(btf, variable->type)->name_off);
		memcpy(out, memory + variable->offset, variable->size < room ? variable->size : room);
	}
	free(memory);
	return error ? error : (int)variable->size;
}

/* The kernel's own types; NULL, and `error`, where it does not tell them. To be freed. */
static struct btf *tempos_kernel_types(int *error)
{
	struct btf *btf = btf__load_vmlinux_btf();

	*error = btf ? 0 : -errno;
	return btf;
}

static void tempos_kernel_types_free(struct btf *btf)
{
	btf__free(btf);
}

static bool tempos_kernel_has_tracepoint(const struct btf *btf, const char *name)
{
	char word[TEMPOS_MEMBER_NAME + 16];

	snprintf(word, sizeof(word), "btf_trace_%s", name);
	return btf__find_by_name_kind(btf, word, BTF_KIND_TYPEDEF) > 0;
}

/* The `index`th enumerator of an enumeration of the kernel; its name, its value in `value`; NULL: no more. */
static const char *tempos_kernel_enumerator(const struct btf *btf, const char *name, __u32 index, long long *value)
{
	__s32 id = btf__find_by_name_kind(btf, name, BTF_KIND_ENUM);
	const struct btf_type *type = id < 0 ? NULL : btf__type_by_id(btf, id);

	if (!type || index >= btf_vlen(type))
		return NULL;
	*value = btf_enum(type)[index].val;
	return btf__name_by_offset(btf, btf_enum(type)[index].name_off);
}

#endif
