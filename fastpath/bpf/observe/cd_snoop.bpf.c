/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every `cd` in an interactive bash: from where, to where, or why not.
 *
 *   cd_builtin      uprobe: who, from where, with which words; its return: to where, and whether it went well
 *   builtin_error   uprobe: what bash says of it, in the user's language
 *
 * Variables of the shell are found beside its code: both are loaded by the same distance, which the address of the
 * function that runs shows. So whether a shell is interactive is asked of the shell, and one that has been waiting
 * for its user since before the tool began is seen as well as a new one.
 *
 * A struct of the shell (its list of words) is read as bash has had it for decades: next and word, word first.
 */
#include "observe.h"

#define DIRECTORY_LEN 256
#define COMMAND_LEN 256
#define PHRASE_LEN 96
#define MAX_SHELLS 4096
#define MAX_WORDS 16

/* Where they lie in the file. */
const volatile __u64 at_cd_builtin = 0;
const volatile __u64 at_interactive_shell = 0;
const volatile __u64 at_directory = 0;

struct tempos_cd {
	__u64 now_ns;
	__u32 pid;
	__s32 result;
	char previous[DIRECTORY_LEN];
	char current[DIRECTORY_LEN];
	char command[COMMAND_LEN];
	char form[PHRASE_LEN];       /* of the error, with %s where these are to be put */
	char first[DIRECTORY_LEN];
	char second[PHRASE_LEN];
};

SHOWN(tempos_cd);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} moves SEC(".maps");

/* What is known of a cd that is under way; by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SHELLS);
	__type(key, __u64);
	__type(value, struct tempos_cd);
} under_way SEC(".maps");

/* Too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_cd);
} scratch SEC(".maps");

/* By how much the shell's code is moved, for the return. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SHELLS);
	__type(key, __u64);
	__type(value, __u64);
} moved SEC(".maps");

__u64 lost_moves = 0;

struct word_list {
	const struct word_list *next;
	const char *const *word;
};

static __always_inline void read_directory(char *to, __u64 base)
{
	const char *directory = NULL;

	bpf_probe_read_user(&directory, sizeof(directory), (const void *)(base + at_directory));
	if (directory)
		bpf_probe_read_user_str(to, DIRECTORY_LEN, directory);
}

static __always_inline void read_words(char *to, const struct word_list *list)
{
	__u32 used = 2;

	to[0] = 'c';
	to[1] = 'd';
	to[2] = 0;
	for (int i = 0; i < MAX_WORDS && list; i++) {
		struct word_list words = {};
		const char *word = NULL;
		long length;

		if (bpf_probe_read_user(&words, sizeof(words), list) ||
		    bpf_probe_read_user(&word, sizeof(word), words.word))
			return;
		if (used >= COMMAND_LEN / 2)
			return;
		to[used++ & (COMMAND_LEN / 2 - 1)] = ' ';
		length = bpf_probe_read_user_str(&to[used & (COMMAND_LEN / 2 - 1)], COMMAND_LEN / 2, word);
		if (length <= 0)
			return;
		used += length - 1;
		list = words.next;
	}
}

SEC("?uprobe")
int tempos_cd_begins(struct pt_regs *registers)
{
	__u64 thread = bpf_get_current_pid_tgid(), base = registers->ip - at_cd_builtin;
	const struct word_list *words = (const void *)registers->di;
	__u32 pid = wanted_here(), interactive = 0;
	const __u32 only = 0;
	struct tempos_cd *cd;

	if (!pid)
		return 0;
	bpf_probe_read_user(&interactive, sizeof(interactive), (const void *)(base + at_interactive_shell));
	if (!interactive)
		return 0;
	cd = bpf_map_lookup_elem(&scratch, &only);
	if (!cd)
		return 0;
	/* What stands behind the end of a text is of the one before, and nobody's business. */
	cd->previous[0] = cd->current[0] = cd->form[0] = cd->first[0] = cd->second[0] = 0;
	cd->pid = pid;
	read_directory(cd->previous, base);
	read_words(cd->command, words);
	if (bpf_map_update_elem(&under_way, &thread, cd, BPF_ANY) ||
	    bpf_map_update_elem(&moved, &thread, &base, BPF_ANY))
		__sync_fetch_and_add(&lost_moves, 1);
	return 0;
}

SEC("?uprobe")
int tempos_cd_fails(struct pt_regs *registers)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tempos_cd *cd = bpf_map_lookup_elem(&under_way, &thread);

	if (!cd || cd->form[0])
		return 0;
	bpf_probe_read_user_str(cd->form, sizeof(cd->form), (const void *)registers->di);
	/* Of what the form does not ask for these are anything: reading that may fail. */
	bpf_probe_read_user_str(cd->first, sizeof(cd->first), (const void *)registers->si);
	bpf_probe_read_user_str(cd->second, sizeof(cd->second), (const void *)registers->dx);
	return 0;
}

SEC("?uretprobe")
int tempos_cd_ends(struct pt_regs *registers)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tempos_cd *cd = bpf_map_lookup_elem(&under_way, &thread);
	__u64 *base = bpf_map_lookup_elem(&moved, &thread);

	if (!cd || !base)
		return 0;
	cd->now_ns = bpf_ktime_get_ns();
	cd->result = registers->ax;
	read_directory(cd->current, *base);
	if (bpf_ringbuf_output(&moves, cd, sizeof(*cd), wake(&moves)))
		__sync_fetch_and_add(&lost_moves, 1);
	bpf_map_delete_elem(&under_way, &thread);
	bpf_map_delete_elem(&moved, &thread);
	return 0;
}
