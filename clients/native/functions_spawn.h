/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs: one process for each event. Event on standard input, result on standard output, what it says on
 * standard error goes into the log; its exit status says how it ended (65: refused).
 *
 * A call is over when the program itself has ended, whoever else holds its pipes; then, as at its deadline or
 * when its output is too large, everything it started is killed: first its process group, and then what left
 * that group, which is the worker's child as soon as nothing stands between (PR_SET_CHILD_SUBREAPER).
 *
 * With `ahead` so many programs wait for an event already. Such a one is told of it on a pipe of its own.
 */
#ifndef TEMPOS_FUNCTIONS_SPAWN_H
#define TEMPOS_FUNCTIONS_SPAWN_H

#include "spawn_start.h"
#include "worker_event.h"

/* Then the worker goes on, whatever is left of what does not let itself be killed: the next call sweeps again. */
#define SWEEP_NS NS_PER_S
/* A program may use its share in so long a time at once. */
#define SHARE_WINDOW_NS 100000000.0

struct spawn {
	struct engine engine;
	const struct tempos_spawn_settings *settings;
	struct worker_log log;
	int children;          /* /proc's list of the worker's, or -1 */
	int told_no_fifo;
	double credit_ns;      /* CPU time that is left; below 0: to sleep for */
	uint64_t credited_ns;  /* when that was */
	uint32_t env;          /* entries of the settings' environment */
	uint32_t waiting;
	struct started *ahead; /* the first `waiting` of them, oldest first */
};

static void tell_no_fifo(struct spawn *spawn, int error)
{
	if (error && !spawn->told_no_fifo) {
		spawn->told_no_fifo = 1;
		fprintf(stderr, "SCHED_FIFO %d was refused to the program (%s): it runs as ordinary ones do\n",
			spawn->settings->fifo, strerror(error));
		fflush(stderr);
	}
}

/* Takes one away that ended before it had an event. */
static void forget_waiting(struct spawn *spawn, uint32_t i)
{
	close_started(&spawn->ahead[i]);
	spawn->waiting--;
	memmove(spawn->ahead + i, spawn->ahead + i + 1, (spawn->waiting - i) * sizeof(*spawn->ahead));
}

static int is_waiting(const struct spawn *spawn, pid_t pid)
{
	for (uint32_t i = 0; i < spawn->waiting; i++)
		if (spawn->ahead[i].pid == pid)
			return i + 1;
	return 0;
}

/* A child that waits for no event, and lives; 0 if there is none, or that cannot be told. */
static pid_t left_behind(struct spawn *spawn)
{
	char list[4096], *at = list;
	ssize_t length = spawn->children < 0 ? 0 : pread(spawn->children, list, sizeof(list) - 1, 0);

	if (length <= 0)
		return 0;
	list[length] = 0;
	while (*at) {
		pid_t pid = strtol(at, &at, 10);

		if (pid && !is_waiting(spawn, pid))
			return pid;
		while (*at == ' ')
			at++;
	}
	return 0;
}

/* Ends and buries whatever a program left. */
static void sweep(struct spawn *spawn)
{
	uint64_t until_ns = monotonic_ns() + SWEEP_NS;

	while (monotonic_ns() < until_ns) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		int waiting = pid > 0 ? is_waiting(spawn, pid) : 0;

		if (waiting)
			forget_waiting(spawn, waiting - 1);
		if (pid > 0)
			continue;
		pid = pid < 0 ? 0 : left_behind(spawn);
		if (!pid)
			return;
		/* It leads a group of its own, or is in one whose other members come here in their turn. */
		kill_group(pid);
		waitpid(pid, NULL, 0);
	}
}

/* Reads what there is: 1 as long as the pipe is open. `take` gets each piece. */
static int read_some(int fd, struct spawn *spawn, struct invocation *now, uint64_t *written)
{
	uint8_t piece[16384];

	for (;;) {
		/* Straight to where the answer leaves from, as long as there is room. */
		int direct = written && *written < now->room;
		ssize_t n = direct ? read(fd, now->output + *written, now->room - *written) :
				     read(fd, piece, sizeof(piece));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (!n)
			return 0;
		if (!written)
			log_add(&spawn->log, piece, n);
		else
			*written += n;
		if (written && *written > now->room)
			return 1;
		/* One that writes without end must not keep the worker from its deadline. */
		if (!written && spawn->log.lost)
			return 1;
	}
}

/* Gives the program its event and takes its output until it ends; gives the condition that ended it otherwise. */
static enum tempos_condition talk(struct spawn *spawn, struct invocation *now, struct started *started,
				  uint64_t *written)
{
	uint32_t sent = 0;

	for (;;) {
		struct pollfd fds[] = {
			{ .fd = started->in, .events = POLLOUT },
			{ .fd = started->out, .events = POLLIN },
			{ .fd = started->err, .events = POLLIN },
			{ .fd = started->handle, .events = POLLIN },
		};
		uint64_t at_ns = monotonic_ns();
		struct timespec left;

		while (started->in >= 0) {
			size_t rest = now->head.length - sent;
			ssize_t n = rest ? write(started->in, now->body + sent, rest) : 0;

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0 && errno == EAGAIN)
				break;
			if (n > 0)
				sent += n;
			/* One that does not want (all of) it is not thereby wrong. */
			if (n < 0 || sent == now->head.length)
				close_fd(&started->in);
		}
		fds[0].fd = started->in;
		if (at_ns >= now->deadline_ns)
			return TEMPOS_TIMED_OUT;
		left = to_timespec(now->deadline_ns - at_ns);
		if (ppoll(fds, 4, &left, NULL) < 0 && errno != EINTR)
			return TEMPOS_ERROR;
		/* Looked at before the pipes are read: then they have all that it wrote. */
		if (fds[1].revents && !read_some(started->out, spawn, now, written))
			close_fd(&started->out);
		if (fds[2].revents && !read_some(started->err, spawn, now, NULL))
			close_fd(&started->err);
		if (*written > now->room)
			return TEMPOS_TOO_LARGE;
		if (fds[3].revents) {
			if (started->out >= 0)
				read_some(started->out, spawn, now, written);
			if (started->err >= 0)
				read_some(started->err, spawn, now, NULL);
			return *written > now->room ? TEMPOS_TOO_LARGE : TEMPOS_SUCCEEDED;
		}
	}
}

static void finish(struct spawn *spawn, struct invocation *now, struct started *started, uint64_t written,
		   enum tempos_condition condition)
{
	struct rusage used;
	int status = 0;

	/* Before it is buried, for until then nobody else's group can have that number. */
	kill_group(started->pid);
	while (wait4(started->pid, &status, 0, &used) < 0 && errno == EINTR)
		;
	close_started(started);
	sweep(spawn);
	spawn->credit_ns -= (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e9 +
			    (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e3;
	if (condition == TEMPOS_TIMED_OUT)
		say(now, condition, "killed at its deadline, with all that it had started");
	else if (condition == TEMPOS_TOO_LARGE)
		say(now, condition, "the output has more than the %u bytes that are allowed", now->room);
	else if (condition == TEMPOS_ERROR)
		say(now, condition, "its pipes cannot be waited for: %s", strerror(errno));
	else if (WIFSIGNALED(status))
		say(now, TEMPOS_CRASHED, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		say_exit(now, WEXITSTATUS(status), &spawn->log);
	else if (written)
		now->length = written;
	else
		now->flags |= TEMPOS_ANSWER_NOTHING;
}

/* One that waits and still lives, or a new one: 1, or 0 and said why. */
static int get(struct spawn *spawn, struct invocation *now, struct started *started)
{
	const struct tempos_spawn_settings *settings = spawn->settings;
	const char *env[spawn->env + EVENT_ENV + 1];
	struct event_env event;
	int no_fifo = 0, well = 0;
	char why[TEMPOS_TEXT];

	write_event_env(&event, now);
	while (settings->ahead && spawn->waiting && !well) {
		struct pollfd ended;

		/* The one that waits longest: the last may have only just begun. */
		*started = spawn->ahead[0];
		memmove(spawn->ahead, spawn->ahead + 1, --spawn->waiting * sizeof(*spawn->ahead));
		ended = (struct pollfd){ .fd = started->handle, .events = POLLIN };
		if (poll(&ended, 1, 0) == 0) {
			well = 1;
		} else {
			kill_group(started->pid);
			waitpid(started->pid, NULL, 0);
			close_started(started);
		}
	}
	memcpy(env, settings->env, spawn->env * sizeof(*env));
	for (int i = 0; i < EVENT_ENV; i++)
		env[spawn->env + i] = event.line[i];
	env[spawn->env + EVENT_ENV] = NULL;
	if (!well)
		well = start(settings, settings->ahead ? settings->env : env, !!settings->ahead, started, &no_fifo, why,
			     sizeof(why));
	tell_no_fifo(spawn, no_fifo);
	if (!well)
		say(now, TEMPOS_ERROR, "%s", why);
	else if (settings->ahead)
		for (int i = 0; i < EVENT_ENV; i++)
			dprintf(started->event, "%s\n", event.line[i]);
	close_fd(&started->event);
	return well;
}

static void call_program(struct engine *engine, struct invocation *now)
{
	struct spawn *spawn = (struct spawn *)engine;
	struct started started;
	uint64_t written = 0;
	enum tempos_condition condition;

	log_begin(&spawn->log, &now->head);
	if (!get(spawn, now, &started))
		return;
	now->ready_ns = monotonic_ns();
	condition = talk(spawn, now, &started, &written);
	finish(spawn, now, &started, written, condition);
}

/* Before each call: write the log, sleep off what its programs used beyond their share, and start one ahead. */
static int prepare(struct engine *engine)
{
	struct spawn *spawn = (struct spawn *)engine;
	const struct tempos_spawn_settings *settings = spawn->settings;
	uint64_t at_ns = monotonic_ns();
	int no_fifo = 0;
	char why[TEMPOS_TEXT];

	log_flush(&spawn->log);
	if (settings->share > 0) {
		spawn->credit_ns += settings->share * (at_ns - spawn->credited_ns);
		spawn->credited_ns = at_ns;
		if (spawn->credit_ns > settings->share * SHARE_WINDOW_NS)
			spawn->credit_ns = settings->share * SHARE_WINDOW_NS;
		if (spawn->credit_ns < 0) {
			struct timespec until = to_timespec(at_ns + (uint64_t)(-spawn->credit_ns / settings->share));

			budget_held++;
			while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
				;
		}
	}
	if (spawn->waiting == settings->ahead)
		return 0;
	if (!start(settings, settings->env, 1, &spawn->ahead[spawn->waiting], &no_fifo, why, sizeof(why)))
		/* The next event finds out whether that lasts, and is told. */
		return 0;
	tell_no_fifo(spawn, no_fifo);
	return ++spawn->waiting < settings->ahead;
}

static void close_spawn(struct engine *engine)
{
	struct spawn *spawn = (struct spawn *)engine;

	while (spawn->waiting) {
		struct started *started = &spawn->ahead[--spawn->waiting];

		kill_group(started->pid);
		waitpid(started->pid, NULL, 0);
		close_started(started);
	}
	close_fd(&spawn->children);
	free(spawn->ahead);
	free(spawn);
}

static struct engine *open_spawn(const struct tempos_spawn_settings *settings, char *why, size_t room)
{
	struct spawn *spawn = calloc(1, sizeof(*spawn));
	int fd;

	/* What a program gets as its first three must not be the worker's own pipes by chance. */
	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	if (spawn)
		spawn->ahead = calloc(settings->ahead + 1, sizeof(*spawn->ahead));
	if (!spawn || !spawn->ahead || prctl(PR_SET_CHILD_SUBREAPER, 1)) {
		snprintf(why, room, "the worker cannot start programs: %s", strerror(errno));
		free(spawn);
		return NULL;
	}
	spawn->engine = (struct engine){ .call = call_program, .idle = prepare, .close = close_spawn };
	spawn->settings = settings;
	while (settings->env[spawn->env])
		spawn->env++;
	spawn->children = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	spawn->credited_ns = monotonic_ns();
	return &spawn->engine;
}

#endif
