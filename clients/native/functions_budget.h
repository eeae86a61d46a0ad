/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CPU budget: this thread may run so long in each window and then sleeps to the window's end.
 *
 * For a thread under real time that never sleeps is stopped by the kernel for the sake of all others, when
 * it likes and for longer. The kernel counts: a timer on the thread's own CPU time sends a signal whenever
 * that much has been used, whatever the function is doing just then, and the handler sleeps. So nothing is
 * paid for each event, and one event that takes long is held, too. A thread that used its budget over more
 * than a window is not.
 */
#ifndef TEMPOS_FUNCTIONS_BUDGET_H
#define TEMPOS_FUNCTIONS_BUDGET_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define SIGNAL_DEADLINE (SIGRTMIN + 5)
#define SIGNAL_BUDGET (SIGRTMIN + 6)

static volatile unsigned int budget_held; /* how often it slept */
static uint64_t budget_window_ns, budget_began_ns;

static uint64_t monotonic_ns(void);
static struct timespec to_timespec(uint64_t ns);

static void hold(int signal)
{
	int error = errno;
	uint64_t over_ns = budget_began_ns + budget_window_ns;

	(void)signal;
	if (monotonic_ns() < over_ns) {
		struct timespec until = to_timespec(over_ns);

		budget_held++;
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
	}
	budget_began_ns = monotonic_ns();
	errno = error;
}

/* A timer whose signal comes to this thread, or -errno. */
static int timer_for_this_thread(clockid_t clock, int signal, void (*handler)(int), timer_t *timer)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signal };

	event.sigev_notify_thread_id = syscall(SYS_gettid);
	sigfillset(&action.sa_mask);
	if (sigaction(signal, &action, NULL) || timer_create(clock, &event, timer))
		return -errno;
	return 0;
}

static int start_budget(uint64_t budget_ns, uint64_t window_ns)
{
	struct itimerspec each = { .it_value = to_timespec(budget_ns), .it_interval = to_timespec(budget_ns) };
	timer_t timer;
	int error;

	if (!budget_ns || budget_ns > window_ns)
		return -EINVAL;
	budget_window_ns = window_ns;
	budget_began_ns = monotonic_ns();
	error = timer_for_this_thread(CLOCK_THREAD_CPUTIME_ID, SIGNAL_BUDGET, hold, &timer);
	if (error)
		return error;
	return timer_settime(timer, 0, &each, NULL) ? -errno : 0;
}

#endif
