/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clock that event loops can wait for: theirs count in milliseconds.
 */
#ifndef TEMPOS_TICKS_H
#define TEMPOS_TICKS_H

#include <errno.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* A descriptor that is readable every so many nanoseconds, less than a second; or the negative errno. */
static int tempos_ticks(uint32_t period_ns)
{
	struct itimerspec when = { .it_interval = { .tv_nsec = period_ns }, .it_value = { .tv_nsec = period_ns } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (timerfd_settime(fd, 0, &when, NULL)) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

#endif
