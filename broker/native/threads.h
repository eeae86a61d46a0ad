/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capabilities belong to threads, and the kernel lets a thread change only its own. So each one is sent a
 * signal, whose handler takes them away. Threads of libraries take part like any other.
 */
#ifndef TEMPOS_THREADS_H
#define TEMPOS_THREADS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <linux/capability.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 4096
#define THREAD_PATIENCE 2 /* seconds that a thread may take */

static struct {
	uint32_t keep[2];
	sem_t done;
} giving_up;

static void keep_only(int signal_number)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	int saved = errno;

	memset(data, 0, sizeof(data));
	if (!syscall(SYS_capget, &header, data)) {
		for (int i = 0; i < 2; i++) {
			data[i].permitted &= giving_up.keep[i];
			data[i].effective = data[i].permitted;
			data[i].inheritable = 0;
		}
		syscall(SYS_capset, &header, data);
	}
	sem_post(&giving_up.done);
	errno = saved;
}

/* Whether thread `tid` was asked already; remembers it. -1: too many threads. */
static int was_asked(pid_t *asked, int *count, pid_t tid)
{
	for (int i = 0; i < *count; i++)
		if (asked[i] == tid)
			return 1;
	if (*count == MAX_THREADS)
		return -1;
	asked[(*count)++] = tid;
	return 0;
}

static int wait_for_thread(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += THREAD_PATIENCE;
	while (sem_timedwait(&giving_up.done, &until))
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* One look at all threads; how many were asked, or -errno. */
static int ask_others(pid_t *asked, int *count)
{
	DIR *tasks = opendir("/proc/self/task");
	pid_t own = (pid_t)syscall(SYS_gettid);
	struct dirent *entry;
	int found = 0;

	if (!tasks)
		return -errno;
	while (found >= 0 && (entry = readdir(tasks))) {
		pid_t tid = (pid_t)atoi(entry->d_name);
		int known;

		if (tid <= 0 || tid == own)
			continue;
		known = was_asked(asked, count, tid);
		if (known < 0)
			found = -E2BIG;
		else if (!known && !syscall(SYS_tgkill, getpid(), tid, SIGRTMAX)) {
			int error = wait_for_thread();

			found = error ? error : found + 1;
		}
	}
	closedir(tasks);
	return found;
}

static int tempos_threads_keep(uint64_t capabilities)
{
	static pid_t asked[MAX_THREADS];
	struct sigaction action = { .sa_handler = keep_only, .sa_flags = SA_RESTART }, before;
	int count = 0, found;

	giving_up.keep[0] = (uint32_t)capabilities;
	giving_up.keep[1] = (uint32_t)(capabilities >> 32);
	if (sem_init(&giving_up.done, 0, 0) || sigaction(SIGRTMAX, &action, &before))
		return -errno;
	keep_only(0);
	if (wait_for_thread())
		return -errno;
	/* A thread that has not been asked yet may have made another. */
	do
		found = ask_others(asked, &count);
	while (found > 0);
	/* After a thread that did not answer the handler stays: the signal may still reach it. */
	if (!found)
		sigaction(SIGRTMAX, &before, NULL);
	return found;
}

#endif
