/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libbpf's own words: its version, and its warnings, which are kept per thread until the call that caused them
 * has told its error.
 */
#ifndef TEMPOS_LIBBPF_WORDS_H
#define TEMPOS_LIBBPF_WORDS_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <bpf/libbpf.h>
#include <linux/types.h>

static __thread char messages[4096];
static __thread size_t messages_len;

static int keep_warning(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char line[1024];

	if (level != LIBBPF_WARN)
		return 0;
	if (vsnprintf(line, sizeof(line), format, arguments) <= 0)
		return 0;
	/* libbpf says so at every EPERM, where the memory limit is hardly ever the cause. */
	if (strstr(line, "ulimit"))
		return 0;
	messages_len += (size_t)snprintf(messages + messages_len, sizeof(messages) - messages_len, "%s", line);
	if (messages_len >= sizeof(messages))
		messages_len = sizeof(messages) - 1;
	return 0;
}

static const char *tempos_libbpf_version(void)
{
	return libbpf_version_string();
}

static void tempos_messages_capture(void)
{
	libbpf_set_print(keep_warning);
}

static void tempos_messages_forget(void)
{
	messages_len = 0;
}

static __u32 tempos_messages_take(char *out, __u32 size)
{
	__u32 taken = messages_len < size ? (__u32)messages_len : size;

	memcpy(out, messages, taken);
	messages_len = 0;
	return taken;
}

#endif
