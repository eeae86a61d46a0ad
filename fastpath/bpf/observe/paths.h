/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The last names of a path that a process gave: of a file, and of the folder it is in, as far as the path says.
 * They are compared by hashes of 64 bits.
 */
#ifndef TEMPOS_PATHS_H
#define TEMPOS_PATHS_H

#include "files.h"
#include "observe.h"

#define MAX_DOTS 8

/* Of one CPU: no two system calls end on it at the same time. */
struct text {
	char of[PATH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct text);
} texts SEC(".maps");

struct names {
	__u32 file;     /* where in the text the file's begins, and where it ends */
	__u32 end;
	__u32 above;    /* where the folder's ends; 0: the path names none */
	bool root;      /* the folder is the root */
};

static __always_inline char letter(const struct text *text, __u32 at)
{
	return text->of[at & (PATH_MAX - 1)];
}

/* Not static: the verifier looks at such a function once, not at each call. */

/* FNV-1a of what stands from `from` to `to`. */
__noinline __u64 hash_of(const struct text *text, __u32 from, __u32 to)
{
	__u64 hash = 0xcbf29ce484222325ULL;

	if (!text)
		return 0;
	for (__u32 i = 0; i < NAME_LEN && from + i < to; i++)
		hash = (hash ^ (__u8)letter(text, from + i)) * 0x100000001b3ULL;
	return hash;
}

/* Where the name that ends at `end` begins. */
__noinline __u32 begin_of(const struct text *text, __u32 end)
{
	__u32 at = end;

	if (!text)
		return 0;
	for (__u32 i = 0; i < NAME_LEN && at && letter(text, at - 1) != '/'; i++)
		at--;
	return at;
}

/* False: it could not be read. */
static __always_inline bool split(struct text *text, const void *path, struct names *names)
{
	long length = bpf_probe_read_user_str(text->of, sizeof(text->of), path);
	__u32 above;

	if (length <= 1)
		return false;
	names->end = length - 1;
	names->file = begin_of(text, names->end);
	above = names->file;
	/* "a//f" and "a/./f" are "a/f"; "./f" names no folder. */
	for (int i = 0; i < MAX_DOTS && above; i++) {
		if (letter(text, above - 1) == '/' && above > 1)
			above--;
		else if (letter(text, above - 1) == '.' && (above == 1 || letter(text, above - 2) == '/'))
			above--;
		else
			break;
	}
	names->root = above == 1 && letter(text, 0) == '/';
	names->above = names->root ? 0 : above;
	return true;
}

/* The folder that a path begins at which is not absolute: of a descriptor, or the current one. */
static __always_inline struct dentry *base_of(int descriptor)
{
	struct file *file;

	if (descriptor == AT_FDCWD)
		return BPF_CORE_READ(bpf_get_current_task_btf(), fs, pwd.dentry);
	file = file_of(descriptor);
	return file ? BPF_CORE_READ(file, f_path.dentry) : NULL;
}

/* Of the name that the kernel has. */
static __always_inline __u64 hash_of_entry(struct text *text, const struct dentry *entry)
{
	long length = bpf_probe_read_kernel_str(text->of, NAME_LEN, BPF_CORE_READ(entry, d_name.name));

	return length > 0 ? hash_of(text, 0, length - 1) : 0;
}

#endif
