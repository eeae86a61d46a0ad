/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps by descriptor, whatever made them, and the numbers of an array that is mapped into this process: those
 * change atomically, against programs and other processes.
 */
#ifndef TEMPOS_LIBBPF_MAPS_H
#define TEMPOS_LIBBPF_MAPS_H

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

struct tempos_map_info {
	__u32 id;
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 flags;
	char name[BPF_OBJ_NAME_LEN];
};

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

/* `count` entries, one behind the other; it is then how many were set. */
static int tempos_map_update_batch(int fd, const void *keys, const void *values, __u32 *count)
{
	return bpf_map_update_batch(fd, keys, values, count, NULL);
}

/*
 * Has at each of `count` keys of a map of maps a new array of one element, which is the key's value of `size`
 * bytes; returns when no program uses what stood there before. `fds` is scratch for so many. Where it fails, some
 * of the first may be set.
 */
static int tempos_map_put_arrays(int fd, const char *name, __u32 size, __u32 count, const void *keys,
				 const char *values, int *fds)
{
	const __u32 only = 0;
	__u32 made = 0, set = count;
	int error = 0;

	while (made < count && !error) {
		int array = bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(only), size, 1, NULL);

		if (array < 0) {
			error = array;
			break;
		}
		fds[made] = array;
		error = bpf_map_update_elem(array, &only, values + (size_t)made++ * size, BPF_ANY);
	}
	if (!error && count == 1)
		error = bpf_map_update_elem(fd, keys, fds, BPF_ANY);
	else if (!error)
		error = bpf_map_update_batch(fd, keys, fds, &set, NULL);
	while (made)
		close(fds[--made]);
	return error;
}

/*
 * The first element, of `size` bytes, of the arrays that stand at `count` keys of a map of maps; `found`: of each
 * key whether one stands there.
 */
static int tempos_map_first_values(int fd, __u32 size, __u32 count, const __u32 *keys, char *values, char *found)
{
	const __u32 first = 0;

	for (__u32 at = 0; at < count; at++) {
		struct tempos_map_info info;
		__u32 id;
		int array, error = bpf_map_lookup_elem(fd, keys + at, &id);

		found[at] = !error;
		if (error == -ENOENT)
			continue;
		if (error)
			return error;
		array = bpf_map_get_fd_by_id(id);
		if (array < 0)
			return array;
		error = tempos_map_info(array, &info);
		if (!error)
			error = info.value_size == size ? bpf_map_lookup_elem(array, &first, values + (size_t)at * size)
							: -EINVAL;
		close(array);
		if (error)
			return error;
	}
	return 0;
}

/* The key after `key`, or the first for NULL; -ENOENT after the last. */
static int tempos_map_next_key(int fd, const void *key, void *next)
{
	return bpf_map_get_next_key(fd, key, next);
}

/*
 * Up to `count` entries of a hash behind `from` (NULL: from its begin); `count` is then how many there were, `next`
 * where to go on. -ENOENT: these were the last. -ENOSPC: not even a bucket had room.
 */
static int tempos_map_lookup_batch(int fd, void *from, void *next, void *keys, void *values, __u32 *count)
{
	return bpf_map_lookup_batch(fd, from, next, keys, values, count, NULL);
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
 * Sums `rows` rows of a per-CPU array from `first` on, `words` u64 a row, over the CPUs into `sums`. `values`
 * and `keys` are scratch for `room` rows of every CPU, which one system call reads (Linux 5.13).
 */
static int tempos_map_sum_rows(int fd, __u32 first, __u32 rows, __u32 words, int cpus, __u32 room,
			       __u64 *values, __u32 *keys, __u64 *sums)
{
	memset(sums, 0, (size_t)rows * words * sizeof(*sums));
	for (__u32 done = 0; done < rows;) {
		__u32 count = rows - done < room ? rows - done : room;
		__u32 before = first + done - 1, after = 0;
		/* It goes on behind the key that it is given; none: from the first. */
		int error = bpf_map_lookup_batch(fd, first + done ? &before : NULL, &after, keys, values, &count, NULL);

		/* The end of the map is no error where it had something before. */
		if (error && !(error == -ENOENT && count))
			return error;
		for (__u32 row = 0; row < count; row++, sums += words)
			for (int cpu = 0; cpu < cpus; cpu++)
				for (__u32 word = 0; word < words; word++)
					sums[word] += values[((size_t)row * cpus + cpu) * words + word];
		done += count;
	}
	return 0;
}

static int tempos_possible_cpus(void)
{
	return libbpf_num_possible_cpus();
}

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

#endif
