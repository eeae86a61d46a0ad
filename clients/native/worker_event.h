/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program is told of its event beside the body, as lines NAME=value: in its environment, or to read.
 */
#ifndef TEMPOS_WORKER_EVENT_H
#define TEMPOS_WORKER_EVENT_H

#include "worker_loop.h"

#define EVENT_ENV 9

static const char *const event_env_names[EVENT_ENV] = {
	"TEMPOS_ID", "TEMPOS_TOPIC", "TEMPOS_WORKFLOW", "TEMPOS_STEP", "TEMPOS_PUBLISHER", "TEMPOS_SEQUENCE",
	"TEMPOS_ATTEMPT", "TEMPOS_SENT_NS", "TEMPOS_LEFT_NS",
};

struct event_env {
	char *line[EVENT_ENV];  /* NAME=value */
	char *value[EVENT_ENV];
	char text[4096];
};

static void write_event_env(struct event_env *env, const struct invocation *now)
{
	const struct tempos_call *call = &now->head;
	uint64_t at_ns = monotonic_ns();
	char text[7][24];
	const char *values[EVENT_ENV] = {
		text[0], now->place->topic, now->place->workflow, now->place->step, text[1], text[2], text[3], text[4],
		text[5],
	};
	size_t at = 0;

	snprintf(text[0], sizeof(text[0]), "%08x:%08x", call->publisher, call->sequence);
	snprintf(text[1], sizeof(text[1]), "%u", call->publisher);
	snprintf(text[2], sizeof(text[2]), "%u", call->sequence);
	snprintf(text[3], sizeof(text[3]), "%u", call->attempt);
	snprintf(text[4], sizeof(text[4]), "%llu", (unsigned long long)call->sent_ns);
	snprintf(text[5], sizeof(text[5]), "%llu",
		 (unsigned long long)(now->deadline_ns > at_ns ? now->deadline_ns - at_ns : 0));
	for (int i = 0; i < EVENT_ENV; i++) {
		/* Names of topics and steps are far shorter; what does not fit is cut. */
		size_t room = (sizeof(env->text) - at) / (EVENT_ENV - i);
		int length = snprintf(env->text + at, room, "%s=%s", event_env_names[i], values[i]);

		env->line[i] = env->text + at;
		env->value[i] = env->line[i] + strlen(event_env_names[i]) + 1;
		at += length < (int)room ? (size_t)length + 1 : room;
	}
}

#endif
