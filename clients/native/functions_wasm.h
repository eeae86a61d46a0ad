/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WebAssembly modules: a fresh instance for each event, out of a pool of one.
 *
 * Two forms. A command of WASI: event on standard input, result on standard output, its exit status says how
 * it ended. An exported function: see tempos_function.h for how it is called and what it may import.
 * The engine checks in the module's loops whether its time is over (an epoch); a timer's signal ends it.
 * That timer runs on from one event to the next, so an event that ends in time pays no system call for it.
 */
#ifndef TEMPOS_FUNCTIONS_WASM_H
#define TEMPOS_FUNCTIONS_WASM_H

#include "functions_budget.h"
#include "wasmtime_api.h"
#include "worker_event.h"
#include "worker_log.h"

#define WASM_PAGE 65536u
/* How a result is told; see tempos_function.h. */
#define WASM_NOTHING UINT64_MAX
#define WASM_FAILED ((uint64_t)1 << 63)
#define WASM_REFUSED ((uint64_t)1 << 31)

struct wasm {
	struct engine engine;
	struct wasmtime api;
	const struct tempos_wasm_settings *settings;
	void *runtime, *module, *pre;
	struct invocation *now;
	uint64_t written;       /* bytes on standard output */
	struct worker_log log;
};

/* When the call that runs must be over, and when the timer goes off; 0: none, not at all. */
static volatile uint64_t deadline_running_ns, deadline_armed_ns;
static struct wasm *volatile deadline_wasm; /* what runs */
static timer_t deadline_timer;
static int has_deadline_timer;

static void arm(uint64_t when_ns)
{
	struct itimerspec at = { .it_value = to_timespec(when_ns) };

	deadline_armed_ns = when_ns;
	timer_settime(deadline_timer, TIMER_ABSTIME, &at, NULL);
}

static void look_at_deadline(int signal)
{
	int error = errno;

	(void)signal;
	deadline_armed_ns = 0;
	if (deadline_running_ns && monotonic_ns() >= deadline_running_ns)
		deadline_wasm->api.wasmtime_engine_increment_epoch(deadline_wasm->runtime);
	else if (deadline_running_ns)
		arm(deadline_running_ns);
	errno = error;
}

static void begin_deadline(struct wasm *wasm, uint64_t when_ns)
{
	deadline_wasm = wasm;
	deadline_running_ns = when_ns;
	if (!deadline_armed_ns || deadline_armed_ns > when_ns)
		arm(when_ns);
}

/* The engine's words for an error, which is deleted. */
static void take_error(const struct wasmtime *api, void *error, char *why, size_t room)
{
	bytes_t text;

	api->wasmtime_error_message(error, &text);
	snprintf(why, room, "%.*s", (int)text.size, (char *)text.data);
	api->wasm_byte_vec_delete(&text);
	api->wasmtime_error_delete(error);
}

static void say_trap(struct wasm *wasm, struct invocation *now, void *trap)
{
	uint8_t code = 0xff;
	bytes_t text;

	wasm->api.wasmtime_trap_code(trap, &code);
	wasm->api.wasm_trap_message(trap, &text);
	if (code == TRAP_INTERRUPT) {
		say(now, TEMPOS_TIMED_OUT, "ended at its deadline");
	} else {
		/* Its own words, without where in the module it was: the first line that names the trap. */
		const char *words = (const char *)text.data, *found = strstr(words, "wasm trap: ");

		if (found)
			words = found;
		say(now, TEMPOS_CRASHED, "%.*s", (int)strcspn(words, "\n"), words);
	}
	wasm->api.wasm_byte_vec_delete(&text);
	wasm->api.wasm_trap_delete(trap);
}

/* What a call into the module came to: 1 if it is over and all is well. */
static int is_well(struct wasm *wasm, struct invocation *now, void *error, void *trap)
{
	char why[TEMPOS_TEXT / 2];
	int status;

	if (trap) {
		say_trap(wasm, now, trap);
	} else if (error && wasm->api.wasmtime_error_exit_status(error, &status)) {
		wasm->api.wasmtime_error_delete(error);
		if (!status)
			return 1;
		say_exit(now, status, &wasm->log);
	} else if (error) {
		take_error(&wasm->api, error, why, sizeof(why));
		say(now, TEMPOS_ERROR, "%s", why);
	} else {
		return 1;
	}
	return 0;
}

static ssize_t take_stdout(void *data, const uint8_t *bytes, size_t length)
{
	struct wasm *wasm = data;
	uint64_t at = wasm->written;

	wasm->written += length;
	if (wasm->written > wasm->now->room)
		return -ENOSPC;
	memcpy(wasm->now->output + at, bytes, length);
	return length;
}

static ssize_t take_stderr(void *data, const uint8_t *bytes, size_t length)
{
	log_add(&((struct wasm *)data)->log, bytes, length);
	return length;
}

/* 1, or 0 and said why. */
static int give_wasi(struct wasm *wasm, struct invocation *now, void *context)
{
	const struct tempos_wasm_settings *settings = wasm->settings;
	const struct wasmtime *api = &wasm->api;
	struct event_env event;
	bytes_t body;
	char why[TEMPOS_TEXT / 2];
	void *wasi = api->wasi_config_new(), *error;
	const char *names[settings->env + EVENT_ENV], *values[settings->env + EVENT_ENV];

	for (uint32_t i = 0; i < settings->env; i++) {
		names[i] = settings->env_names[i];
		values[i] = settings->env_values[i];
	}
	write_event_env(&event, now);
	for (int i = 0; i < EVENT_ENV; i++) {
		names[settings->env + i] = event_env_names[i];
		values[settings->env + i] = event.value[i];
	}
	api->wasm_byte_vec_new(&body, now->head.length, now->body);
	api->wasi_config_set_stdin_bytes(wasi, &body);
	api->wasi_config_set_stdout_custom(wasi, take_stdout, wasm, NULL);
	api->wasi_config_set_stderr_custom(wasi, take_stderr, wasm, NULL);
	if (!api->wasi_config_set_argv(wasi, settings->args, settings->argv) ||
	    !api->wasi_config_set_env(wasi, settings->env + EVENT_ENV, names, values)) {
		api->wasi_config_delete(wasi);
		say(now, TEMPOS_ERROR, "its arguments or environment are not UTF-8");
		return 0;
	}
	for (uint32_t i = 0; i < settings->folders; i++) {
		if (!api->wasi_config_preopen_dir(wasi, settings->hosts[i], settings->guests[i],
						  settings->writable[i])) {
			api->wasi_config_delete(wasi);
			say(now, TEMPOS_ERROR, "the granted folder %s cannot be opened", settings->hosts[i]);
			return 0;
		}
	}
	error = api->wasmtime_context_set_wasi(context, wasi);
	if (error) {
		take_error(api, error, why, sizeof(why));
		say(now, TEMPOS_ERROR, "%s", why);
	}
	return !error;
}

/* Call an export, which the module's own description said is there and a function. */
static int call_export(struct wasm *wasm, struct invocation *now, void *context, const instance_t *instance,
		       const char *name, raw_t *values, size_t count)
{
	extern_t found;
	void *trap = NULL, *error;

	if (!wasm->api.wasmtime_instance_export_get(context, instance, name, strlen(name), &found) ||
	    found.kind != KIND_FUNC) {
		say(now, TEMPOS_ERROR, "the instance has no function %s", name);
		return 0;
	}
	error = wasm->api.wasmtime_func_call_unchecked(context, &found.of.func, values, count, &trap);
	return is_well(wasm, now, error, trap);
}

/* `length` bytes at `at` of a memory, or NULL where those are not all there. */
static uint8_t *guest_bytes(struct wasm *wasm, const void *context, const memory_t *memory, uint32_t at,
			    uint64_t length)
{
	return at + length <= wasm->api.wasmtime_memory_data_size(context, memory) ?
		       wasm->api.wasmtime_memory_data(context, memory) + at : NULL;
}

static void take_result(struct wasm *wasm, struct invocation *now, void *context, const memory_t *memory,
			uint64_t result)
{
	uint32_t at = (result & ~WASM_FAILED) >> 32, length = result & ~(result & WASM_FAILED ? WASM_REFUSED : 0);
	const uint8_t *bytes = guest_bytes(wasm, context, memory, at, length);

	if (result == WASM_NOTHING) {
		now->flags |= TEMPOS_ANSWER_NOTHING;
	} else if (!(result & WASM_FAILED) && length > now->room) {
		say_too_large(now, length);
	} else if (!bytes) {
		say(now, TEMPOS_ERROR, "its result lies outside its memory: %u bytes at %u", length, at);
	} else if (result & WASM_FAILED) {
		int refused = !!(result & WASM_REFUSED);

		say(now, refused ? TEMPOS_SAID_NO : TEMPOS_ERROR, "%.*s",
		    length ? (int)(length < TEMPOS_TEXT ? length : TEMPOS_TEXT) : TEMPOS_TEXT,
		    length ? (const char *)bytes : refused ? "the function refused it" : "the function failed");
	} else {
		memcpy(now->output, bytes, length);
		now->length = length;
	}
}

static void call_function(struct wasm *wasm, struct invocation *now, void *context, const instance_t *instance)
{
	const char *entry = wasm->settings->entry;
	raw_t values[2] = { { .i32 = (int32_t)now->head.length } };
	extern_t memory;
	uint8_t *body;

	if (!wasm->api.wasmtime_instance_export_get(context, instance, "memory", 6, &memory) ||
	    memory.kind != KIND_MEMORY) {
		say(now, TEMPOS_ERROR, "the instance has no memory");
		return;
	}
	if (!call_export(wasm, now, context, instance, "tempos_alloc", values, 1))
		return;
	body = guest_bytes(wasm, context, &memory.of.memory, values[0].i32, now->head.length);
	if (!body || (!values[0].i32 && now->head.length)) {
		say(now, TEMPOS_ERROR, "tempos_alloc gave no room for a body of %u bytes", now->head.length);
		return;
	}
	memcpy(body, now->body, now->head.length);
	values[1].i32 = now->head.length;
	if (call_export(wasm, now, context, instance, entry, values, 2))
		take_result(wasm, now, context, &memory.of.memory, values[0].i64);
}

static void call_command(struct wasm *wasm, struct invocation *now, void *context, const instance_t *instance)
{
	raw_t none;
	int well = call_export(wasm, now, context, instance, "_start", &none, 0);

	if (wasm->written > now->room) {
		if (now->condition != TEMPOS_TIMED_OUT)
			say_too_large(now, wasm->written);
	} else if (well) {
		now->length = wasm->written;
		if (!wasm->written)
			now->flags |= TEMPOS_ANSWER_NOTHING;
	}
}

static void call_wasm(struct engine *engine, struct invocation *now)
{
	struct wasm *wasm = (struct wasm *)engine;
	const struct wasmtime *api = &wasm->api;
	void *store = api->wasmtime_store_new(wasm->runtime, NULL, NULL);
	void *context = api->wasmtime_store_context(store), *trap = NULL, *error;
	raw_t none;
	instance_t instance;

	wasm->now = now;
	wasm->written = 0;
	log_begin(&wasm->log, &now->head);
	api->wasmtime_context_set_epoch_deadline(context, 1);
	if (!wasm->settings->wasi || give_wasi(wasm, now, context)) {
		begin_deadline(wasm, now->deadline_ns);
		error = api->wasmtime_instance_pre_instantiate(wasm->pre, context, &instance, &trap);
		if (is_well(wasm, now, error, trap) &&
		    (!wasm->settings->initialize ||
		     call_export(wasm, now, context, &instance, "_initialize", &none, 0))) {
			now->ready_ns = monotonic_ns();
			(*wasm->settings->entry ? call_function : call_command)(wasm, now, context, &instance);
		}
		deadline_running_ns = 0;
	}
	api->wasmtime_store_delete(store);
}

static int flush_wasm(struct engine *engine)
{
	log_flush(&((struct wasm *)engine)->log);
	return 0;
}

/* What the module may import from "tempos". */

static void *host_event(void *data, void *caller, raw_t *values, size_t count)
{
	const struct invocation *now = ((struct wasm *)data)->now;
	uint64_t at_ns = monotonic_ns();
	const int64_t told[] = {
		now->head.publisher, now->head.sequence, now->head.attempt, now->head.sent_ns,
		now->deadline_ns > at_ns ? now->deadline_ns - at_ns : 0, now->room,
	};
	uint32_t what = values[0].i32;

	values[0].i64 = what < sizeof(told) / sizeof(*told) ? told[what] : 0;
	return NULL;
}

static uint8_t *caller_bytes(struct wasm *wasm, void *caller, uint32_t at, uint32_t length)
{
	extern_t memory;

	if (!wasm->api.wasmtime_caller_export_get(caller, "memory", 6, &memory) || memory.kind != KIND_MEMORY)
		return NULL;
	return guest_bytes(wasm, wasm->api.wasmtime_caller_context(caller), &memory.of.memory, at, length);
}

static void *host_text(void *data, void *caller, raw_t *values, size_t count)
{
	struct wasm *wasm = data;
	const struct place *place = wasm->now->place;
	uint32_t what = values[0].i32, room = values[2].i32;
	const char *text = what == 0 ? place->topic : what == 1 ? place->workflow : what == 2 ? place->step : "";
	uint32_t length = strlen(text);
	uint8_t *to = caller_bytes(wasm, caller, values[1].i32, length < room ? length : room);

	if (to)
		memcpy(to, text, length < room ? length : room);
	values[0].i32 = to ? length : 0;
	return NULL;
}

/* As tempos_function.h has it for modules in C. */
struct told {
	uint64_t sent_ns, left_ns;
	uint32_t publisher, sequence, attempt, room;
	char names[768];
};

static void *host_told(void *data, void *caller, raw_t *values, size_t count)
{
	struct wasm *wasm = data;
	const struct invocation *now = wasm->now;
	const char *names[] = { now->place->topic, now->place->workflow, now->place->step };
	uint64_t at_ns = monotonic_ns();
	struct told told = {
		.sent_ns = now->head.sent_ns,
		.left_ns = now->deadline_ns > at_ns ? now->deadline_ns - at_ns : 0,
		.publisher = now->head.publisher,
		.sequence = now->head.sequence,
		.attempt = now->head.attempt,
		.room = now->room,
	};
	uint32_t length = 0, room = values[1].i32;
	uint8_t *to;

	for (int i = 0; i < 3; i++)
		length += snprintf(told.names + length, sizeof(told.names) / 3, "%.255s", names[i]) + 1;
	length += offsetof(struct told, names);
	length = length < room ? length : room;
	to = caller_bytes(wasm, caller, values[0].i32, length);
	if (to)
		memcpy(to, &told, length);
	values[0].i32 = to ? length : 0;
	return NULL;
}

static void *host_log(void *data, void *caller, raw_t *values, size_t count)
{
	struct wasm *wasm = data;
	uint32_t length = values[1].i32;
	const uint8_t *from = caller_bytes(wasm, caller, values[0].i32, length);

	if (from) {
		log_add(&wasm->log, from, length);
		log_add(&wasm->log, "\n", 1);
	}
	return NULL;
}

#endif
