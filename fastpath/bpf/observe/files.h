/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the number of a file descriptor of the process at hand to what it stands for.
 */
#ifndef TEMPOS_FILES_H
#define TEMPOS_FILES_H

#include "observe.h"

#define NAME_LEN (NAME_MAX + 1)

/* NULL: there is none. */
static __always_inline struct file *file_of(__u32 descriptor)
{
	struct fdtable *table = BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt);
	struct file **all = BPF_CORE_READ(table, fd);
	struct file *file = NULL;

	if (descriptor >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), all + descriptor);
	return file;
}

/* NULL: it is no socket. */
static __always_inline struct sock *socket_of(__u32 descriptor)
{
	struct file *file = file_of(descriptor);
	struct socket *socket;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

#endif
