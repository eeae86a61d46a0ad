/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long files live that were created while this looks on: a record for each that is deleted.
 *
 *   open, openat, openat2, creat   the kernel marks what has come into being by the call: born, by folder and name
 *   rename, renameat, renameat2    it goes by another folder and name from now on
 *   unlink, unlinkat               it is gone
 *
 * A system call tells a path, not a file. Where the path begins at a folder that is known and names no other, folder
 * and name say which file it was. Else every file is looked at that was born under this name: first of those whose
 * folder is called as the path says, then of the others (the path goes by a link, or ends at ".."). It is the one that
 * is not any more where it was born: the kernel has just taken it away. Where several go at once, those that the
 * process itself has created come first.
 */
#include "calls.h"
#include "files.h"
#include "observe.h"
#include "paths.h"

#define MAX_FILES 32768
#define SAME_NAME 16
#define ANY_FOLDER 0
#define ANYBODY 0

/* What user space puts into `calls`. */
enum { OPEN = 1, UNLINK, UNLINKAT, RENAME, RENAMEAT };

struct place {
	__u64 folder;   /* the kernel's entry of it */
	__u64 name;     /* hash */
};

struct birth {
	__u64 ns;
	struct dentry *entry;
	struct inode *inode;
	__u64 called;   /* hash of the folder's name */
	__u64 hash;     /* the kernel's, of folder and name */
	__u64 pid;      /* of the process that created it */
};

/* The oldest make room: who creates files for good must not blind us to those that come and go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FILES);
	__type(key, struct place);
	__type(value, struct birth);
} births SEC(".maps");

struct alike {
	__u64 name;
	__u64 called;   /* hash of the folder's name, or ANY_FOLDER */
};

struct folders {
	__u64 of[SAME_NAME];
	__u64 beyond;   /* files had no place here, or took that of one which is gone without our knowing how */
};

/* In which folders there are files that were born under a name. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2 * MAX_FILES);
	__type(key, struct alike);
	__type(value, struct folders);
} known SEC(".maps");

struct tempos_life {
	__u64 ns;       /* it lived for so long */
	__u32 pid;
	__u32 pad;
	char comm[COMM_LEN];
	char name[NAME_LEN];
};
SHOWN(tempos_life);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} lives SEC(".maps");

const struct folders nowhere = {};

__u64 lost_lives = 0;
__u64 lost_names = 0;   /* files deleted that may be among more of one name than are told apart */

/* Whether it is not any more where it was born. */
static __always_inline bool has_gone(const struct place *place, const struct birth *birth)
{
	const struct dentry *entry = birth->entry;

	return BPF_CORE_READ(entry, d_inode) != birth->inode || !BPF_CORE_READ(entry, d_hash.pprev) ||
	       (__u64)BPF_CORE_READ(entry, d_parent) != place->folder ||
	       BPF_CORE_READ(entry, d_name.hash) != birth->hash;
}

static __always_inline void remember(__u64 name, __u64 called, __u64 folder)
{
	struct alike key = {.name = name, .called = called};
	struct folders *all = bpf_map_lookup_elem(&known, &key);

	if (!all) {
		bpf_map_update_elem(&known, &key, &nowhere, BPF_NOEXIST);
		all = bpf_map_lookup_elem(&known, &key);
		if (!all)
			return;
	}
	for (int i = 0; i < SAME_NAME; i++) {
		if (all->of[i] == folder || !__sync_val_compare_and_swap(&all->of[i], 0, folder))
			return;
	}
	__sync_fetch_and_add(&all->beyond, 1);
	for (int i = 0; i < SAME_NAME; i++) {
		struct place place = {.folder = all->of[i], .name = name};
		struct birth *found = bpf_map_lookup_elem(&births, &place);

		if (found && !has_gone(&place, found))
			continue;
		if (__sync_val_compare_and_swap(&all->of[i], place.folder, folder) == place.folder)
			return;
	}
}

/* A file was deleted that is not found: whether it may be one that had no place. */
static __always_inline bool may_be_beyond(__u64 name, __u64 called)
{
	struct alike key = {.name = name, .called = called};
	struct folders *all = bpf_map_lookup_elem(&known, &key);

	return all && all->beyond;
}

static __always_inline void forget(__u64 name, __u64 called, __u64 folder)
{
	struct alike key = {.name = name, .called = called};
	struct folders *all = bpf_map_lookup_elem(&known, &key);

	for (int i = 0; all && i < SAME_NAME; i++)
		__sync_val_compare_and_swap(&all->of[i], folder, 0);
}

static __always_inline void settle(struct text *text, struct dentry *entry, struct birth *birth)
{
	struct dentry *folder = BPF_CORE_READ(entry, d_parent);
	struct place place = {.folder = (__u64)folder, .name = hash_of_entry(text, entry)};

	birth->entry = entry;
	birth->inode = BPF_CORE_READ(entry, d_inode);
	birth->hash = BPF_CORE_READ(entry, d_name.hash);
	birth->called = hash_of_entry(text, folder);
	bpf_map_update_elem(&births, &place, birth, BPF_ANY);
	remember(place.name, birth->called, place.folder);
	remember(place.name, ANY_FOLDER, place.folder);
}

/* Takes a file out of the books; false: another call was first. */
static __always_inline bool take(const struct place *place, struct birth *birth)
{
	struct birth *found = bpf_map_lookup_elem(&births, place);

	if (!found)
		return false;
	*birth = *found;
	if (bpf_map_delete_elem(&births, place))
		return false;
	forget(place->name, birth->called, place->folder);
	forget(place->name, ANY_FOLDER, place->folder);
	return true;
}

static __always_inline bool take_gone(__u64 name, __u64 called, __u64 pid, struct birth *birth)
{
	struct alike key = {.name = name, .called = called};
	struct folders *all = bpf_map_lookup_elem(&known, &key);

	for (int i = 0; all && i < SAME_NAME; i++) {
		struct place place = {.folder = all->of[i], .name = name};
		struct birth *found = place.folder ? bpf_map_lookup_elem(&births, &place) : NULL;

		if (found && (pid == ANYBODY || found->pid == pid) && has_gone(&place, found) && take(&place, birth))
			return true;
	}
	return false;
}

/* The file that a call has just taken away from a path; false: not one that was born here. */
static __always_inline bool taken_from(struct text *text, struct names *names, int base, const void *path,
				       struct birth *birth)
{
	struct place place = {};
	__u64 called = ANY_FOLDER, pid = bpf_get_current_pid_tgid() >> 32;

	if (!split(text, path, names))
		return false;
	place.name = hash_of(text, names->file, names->end);
	if (!names->above && !names->root) {
		place.folder = (__u64)base_of(base);
		return take(&place, birth);
	}
	if (names->above)
		called = hash_of(text, begin_of(text, names->above), names->above);
	if ((called && take_gone(place.name, called, pid, birth)) || take_gone(place.name, ANY_FOLDER, pid, birth) ||
	    (called && take_gone(place.name, called, ANYBODY, birth)) ||
	    take_gone(place.name, ANY_FOLDER, ANYBODY, birth))
		return true;
	if (may_be_beyond(place.name, called) && wanted_here())
		__sync_fetch_and_add(&lost_names, 1);
	return false;
}

static __always_inline void tell(const struct text *text, const struct names *names, __u32 pid, __u64 born)
{
	struct tempos_life *record = bpf_ringbuf_reserve(&lives, sizeof(*record), 0);

	if (!record) {
		__sync_fetch_and_add(&lost_lives, 1);
		return;
	}
	record->ns = bpf_ktime_get_ns() - born;
	record->pid = pid;
	record->pad = 0;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	if (names->file >= PATH_MAX - NAME_LEN ||
	    bpf_probe_read_kernel_str(record->name, sizeof(record->name), text->of + names->file) < 0)
		record->name[0] = 0;
	submit(&lives, record);
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_lived, struct pt_regs *registers, long result)
{
	const __u32 only = 0;
	struct text *text;
	struct names names = {};
	struct birth birth = {};
	struct call call;
	__u32 pid;

	if (!is_ours(&call, registers) || result < 0)
		return 0;
	text = bpf_map_lookup_elem(&texts, &only);
	if (!text)
		return 0;
	if (call.kind == OPEN) {
		struct file *file = file_of(result);

		if (file && BPF_CORE_READ(file, f_mode) & FMODE_CREATED) {
			birth.ns = bpf_ktime_get_ns();
			birth.pid = bpf_get_current_pid_tgid() >> 32;
			settle(text, BPF_CORE_READ(file, f_path.dentry), &birth);
		}
		return 0;
	}
	if (call.kind == UNLINKAT && argument(&call, 2) & AT_REMOVEDIR)
		return 0;
	if (call.kind == UNLINKAT || call.kind == RENAMEAT) {
		if (!taken_from(text, &names, argument(&call, 0), (const void *)argument(&call, 1), &birth))
			return 0;
	} else if (!taken_from(text, &names, AT_FDCWD, (const void *)argument(&call, 0), &birth)) {
		return 0;
	}
	if (call.kind == RENAME || call.kind == RENAMEAT) {
		settle(text, birth.entry, &birth);
		return 0;
	}
	pid = wanted_here();
	if (pid)
		tell(text, &names, pid, birth.ns);
	return 0;
}
