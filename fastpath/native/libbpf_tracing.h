/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where programs are attached that look on: tracepoints, iterators, perf events and uprobes. All by a link's
 * descriptor: nothing stays when that is closed.
 */
#ifndef TEMPOS_LIBBPF_TRACING_H
#define TEMPOS_LIBBPF_TRACING_H

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>

/* A `tp_btf` program: what it is attached to stands in it. */
static int tempos_tracing_attach(int program_fd)
{
	return bpf_raw_tracepoint_open(NULL, program_fd);
}

static int tempos_raw_attach(int program_fd, const char *tracepoint)
{
	return bpf_raw_tracepoint_open(tracepoint, program_fd);
}

/* An iterator; `map_fd`: of the map it goes over, -1: it goes over none. */
static int tempos_iter_attach(int program_fd, int map_fd)
{
	union bpf_iter_link_info info = {.map.map_fd = (__u32)map_fd};
	LIBBPF_OPTS(bpf_link_create_opts, opts);

	if (map_fd >= 0) {
		opts.iter_info = &info;
		opts.iter_info_len = sizeof(info);
	}
	return bpf_link_create(program_fd, 0, BPF_TRACE_ITER, &opts);
}

/* A descriptor to read one walk of an iterator from. */
static int tempos_iter_walk(int link_fd)
{
	return bpf_iter_create(link_fd);
}

static int open_event(struct perf_event_attr *attr, int pid, int cpu)
{
	long fd;

	attr->size = sizeof(*attr);
	attr->disabled = 1;
	fd = syscall(SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? -errno : (int)fd;
}

/* Hands the event over to a link, which keeps it. */
static int link_event(int program_fd, int event_fd)
{
	int link_fd, error = 0;

	if (event_fd < 0)
		return event_fd;
	link_fd = bpf_link_create(program_fd, event_fd, BPF_PERF_EVENT, NULL);
	if (link_fd >= 0 && ioctl(event_fd, PERF_EVENT_IOC_ENABLE, 0)) {
		error = -errno;
		close(link_fd);
	}
	close(event_fd);
	return error ? error : link_fd;
}

/* A perf event of one CPU, of all processes: every `period`th, or so many samples a second. */
static int tempos_perf_attach(int program_fd, __u32 type, __u64 config, __u64 period, bool is_frequency, int cpu)
{
	struct perf_event_attr attr = {.type = type, .config = config, .sample_period = period, .freq = is_frequency};

	return link_event(program_fd, open_event(&attr, -1, cpu));
}

/*
 * A uprobe at a place of a file, in every process that runs it. `type`: of the kernel's uprobe events; `config`:
 * the bit that says whether it is the return of the function that begins there.
 */
static int tempos_uprobe_attach(int program_fd, __u32 type, __u64 config, const char *path, __u64 offset)
{
	struct perf_event_attr attr = {.type = type, .config = config, .config1 = (__u64)(unsigned long)path,
				       .config2 = offset, .sample_period = 1, .wakeup_events = 1};

	return link_event(program_fd, open_event(&attr, -1, 0));
}

#endif
