/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions in shared libraries: tempos_function() of tempos_function.h, called in this very process.
 *
 * `keep`: opened once. Otherwise opened, called and closed for each event.
 */
#ifndef TEMPOS_FUNCTIONS_DLF_H
#define TEMPOS_FUNCTIONS_DLF_H

#include "../tempos_invoker/include/tempos_function.h"
#include "worker_loop.h"

#include <dlfcn.h>

typedef int tempos_function_t(const struct tempos_event *, struct tempos_result *);

struct dlf {
	struct engine engine;
	tempos_function_t *function; /* NULL: open it for each event */
	char path[];
};

/* Gives the handle, or NULL and why. */
static void *open_library(const char *path, tempos_function_t **function, char *why, size_t room)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!handle) {
		snprintf(why, room, "%s", dlerror());
		return NULL;
	}
	*function = (tempos_function_t *)dlsym(handle, "tempos_function");
	if (!*function) {
		snprintf(why, room, "%s", dlerror());
		dlclose(handle);
		return NULL;
	}
	return handle;
}

static void call_library(struct engine *engine, struct invocation *now)
{
	struct dlf *dlf = (struct dlf *)engine;
	char text[TEMPOS_TEXT / 2] = "";
	struct tempos_event event = {
		.size = sizeof(event),
		.attempt = now->head.attempt,
		.publisher = now->head.publisher,
		.sequence = now->head.sequence,
		.sent_ns = now->head.sent_ns,
		.body = now->body,
		.length = now->head.length,
		.topic = now->place->topic,
		.workflow = now->place->workflow,
		.step = now->place->step,
	};
	struct tempos_result result = {
		.size = sizeof(result),
		.text_room = sizeof(text),
		.output = now->output,
		.room = now->room,
		.text = text,
	};
	tempos_function_t *function = dlf->function;
	void *handle = NULL;
	int code;

	if (!function) {
		char why[TEMPOS_TEXT / 2];

		handle = open_library(dlf->path, &function, why, sizeof(why));
		now->ready_ns = monotonic_ns();
		if (!handle) {
			say(now, TEMPOS_ERROR, "%s", why);
			return;
		}
	}
	if (now->deadline_ns > now->ready_ns)
		event.left_ns = now->deadline_ns - now->ready_ns;
	code = function(&event, &result);
	text[sizeof(text) - 1] = 0;
	if (handle)
		dlclose(handle);
	if (code == TEMPOS_OK && result.length > now->room)
		say_too_large(now, result.length);
	else if (code == TEMPOS_OK)
		now->length = result.length;
	else if (code == TEMPOS_NOTHING)
		now->flags |= TEMPOS_ANSWER_NOTHING;
	else if (code == TEMPOS_REFUSED)
		say(now, TEMPOS_SAID_NO, "%s", text[0] ? text : "the function refused it");
	else
		say(now, TEMPOS_ERROR, "code %d%s%s", code, text[0] ? ": " : "", text);
}

static void close_library(struct engine *engine)
{
	free(engine);
}

static struct engine *open_dlf(const char *path, int keep, char *why, size_t room)
{
	struct dlf *dlf = calloc(1, sizeof(*dlf) + strlen(path) + 1);
	tempos_function_t *function;
	void *handle;

	if (!dlf) {
		snprintf(why, room, "no memory");
		return NULL;
	}
	dlf->engine = (struct engine){ .call = call_library, .close = close_library };
	strcpy(dlf->path, path);
	handle = open_library(path, &function, why, room);
	if (!handle) {
		free(dlf);
		return NULL;
	}
	if (keep)
		dlf->function = function;
	else
		dlclose(handle);
	return &dlf->engine;
}

#endif
