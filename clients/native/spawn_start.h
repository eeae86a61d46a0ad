/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a program: by vfork, so that nothing of the worker is copied, and what it shall be (user, limits,
 * scheduling, folder) it becomes itself before it is executed.
 *
 * The child leads a process group of its own, dies with the worker, and gets standard input, output and
 * error as pipes. Rule: between vfork and exec only system calls, the raw ones where the C library would
 * also tell other threads.
 */
#ifndef TEMPOS_SPAWN_START_H
#define TEMPOS_SPAWN_START_H

#include "worker_log.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOSE_RANGE_ON_EXEC 4
/* Where a program that was started ahead is told of its event. */
#define EVENT_FD 3

/* A program that runs; `pid` 0: none. What is closed is -1. */
struct started {
	pid_t pid;
	int handle; /* of the process */
	int in, out, err, event;
};

/* What the child leaves behind in memory that both share. */
struct failure {
	const char *what; /* NULL: it was executed */
	int error;
	int no_fifo;      /* why SCHED_FIFO was refused, or 0 */
};

/* Ends a program and its group, which it may have left for another one. */
static void kill_group(pid_t pid)
{
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
}

static int limit_to(int resource, uint64_t most)
{
	struct rlimit limit = { .rlim_cur = most, .rlim_max = most };

	return setrlimit(resource, &limit);
}

static const char *become(const struct tempos_spawn_settings *settings)
{
	static const int defaults[] = { SIGINT, SIGPIPE, SIGXFSZ };
	struct sched_param priority = { .sched_priority = settings->fifo };
	struct sigaction action = { .sa_handler = SIG_DFL };

	for (unsigned int i = 0; i < sizeof(defaults) / sizeof(*defaults); i++)
		sigaction(defaults[i], &action, NULL);
	if (settings->memory && limit_to(RLIMIT_DATA, settings->memory))
		return "its memory cannot be limited";
	if (settings->processes && limit_to(RLIMIT_NPROC, settings->processes))
		return "its processes cannot be limited";
	if (limit_to(RLIMIT_CORE, 0))
		return "its core files cannot be forbidden";
	if (settings->fifo && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority))
		return "";
	return NULL;
}

static const char *become_user(const struct tempos_spawn_settings *settings)
{
	if (settings->become && (syscall(SYS_setgroups, settings->groups, settings->group) ||
				 syscall(SYS_setresgid, settings->gid, settings->gid, settings->gid) ||
				 syscall(SYS_setresuid, settings->uid, settings->uid, settings->uid)))
		return "it cannot become another user";
	if (*settings->cwd && chdir(settings->cwd))
		return "its folder cannot be worked in";
	return NULL;
}

/* In the child. Gives what failed. */
static const char *execute(const struct tempos_spawn_settings *settings, const char *const *env, const int *fds,
			   pid_t parent, struct failure *failure)
{
	int last = fds[EVENT_FD] < 0 ? STDERR_FILENO : EVENT_FD;
	sigset_t none;
	const char *what;

	if (setpgid(0, 0))
		return "it cannot lead a group";
	what = become(settings);
	if (what && !*what)
		failure->no_fifo = errno;
	else if (what)
		return what;
	for (int i = 0; i <= last; i++) {
		/* The worker's own three are open, so none of the pipes is among them; one may be the fourth. */
		if (fds[i] == i ? fcntl(i, F_SETFD, 0) : dup2(fds[i], i) < 0)
			return "its pipes cannot be had";
	}
	syscall(SYS_close_range, last + 1, ~0u, CLOSE_RANGE_ON_EXEC);
	what = become_user(settings);
	if (what)
		return what;
	/* Another user's process forgets it, hence only now. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		return "its worker is gone";
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(settings->program, (char *const *)settings->argv, (char *const *)env);
	return "it cannot be executed";
}

/* In a frame of its own: what the child does must not disturb its parent's. */
__attribute__((noinline)) static pid_t vfork_and_execute(const struct tempos_spawn_settings *settings,
							 const char *const *env, const int *fds,
							 struct failure *failure)
{
	pid_t parent = getpid(), pid = vfork();

	if (!pid) {
		failure->what = execute(settings, env, fds, parent, failure);
		failure->error = errno;
		_exit(127);
	}
	return pid;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_started(struct started *started)
{
	close_fd(&started->handle);
	close_fd(&started->in);
	close_fd(&started->out);
	close_fd(&started->err);
	close_fd(&started->event);
	started->pid = 0;
}

/* 1, or 0 and why. `ahead`: it is told of its event later. `no_fifo`: why SCHED_FIFO was refused. */
static int start(const struct tempos_spawn_settings *settings, const char *const *env, int ahead,
		 struct started *started, int *no_fifo, char *why, size_t room)
{
	int pipes[4][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 } }, fds[4], count = ahead ? 4 : 3, error = 0;
	struct failure failure = { 0 };
	sigset_t all, before;

	*started = (struct started){ .handle = -1, .in = -1, .out = -1, .err = -1, .event = -1 };
	for (int i = 0; i < count && !error; i++)
		error = pipe2(pipes[i], O_CLOEXEC) ? errno : 0;
	/* The child's end: it reads its input and its event. */
	for (int i = 0; i < 4; i++)
		fds[i] = pipes[i][i == STDIN_FILENO || i == EVENT_FD ? 0 : 1];
	if (!error) {
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &before);
		started->pid = vfork_and_execute(settings, env, fds, &failure);
		error = started->pid < 0 ? errno : 0;
		sigprocmask(SIG_SETMASK, &before, NULL);
		*no_fifo = failure.no_fifo;
	}
	for (int i = 0; i < count; i++)
		close_fd(&fds[i]);
	started->in = pipes[STDIN_FILENO][1];
	started->out = pipes[STDOUT_FILENO][0];
	started->err = pipes[STDERR_FILENO][0];
	started->event = pipes[EVENT_FD][1];
	if (error) {
		snprintf(why, room, "it cannot be started: %s", strerror(error));
		close_started(started);
		return 0;
	}
	if (failure.what) {
		waitpid(started->pid, NULL, 0);
		snprintf(why, room, "%s: %s: %s", settings->program, failure.what, strerror(failure.error));
		close_started(started);
		return 0;
	}
	fcntl(started->in, F_SETFL, O_NONBLOCK);
	fcntl(started->out, F_SETFL, O_NONBLOCK);
	fcntl(started->err, F_SETFL, O_NONBLOCK);
	started->handle = syscall(SYS_pidfd_open, started->pid, 0);
	if (started->handle < 0) {
		snprintf(why, room, "it cannot be watched: %s", strerror(errno));
		kill_group(started->pid);
		waitpid(started->pid, NULL, 0);
		close_started(started);
		return 0;
	}
	return 1;
}

#endif
