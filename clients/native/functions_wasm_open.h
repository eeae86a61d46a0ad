/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an engine for one module: its pool is sized to it, what it imports is bound once.
 */
#ifndef TEMPOS_FUNCTIONS_WASM_OPEN_H
#define TEMPOS_FUNCTIONS_WASM_OPEN_H

#include "functions_wasm.h"

/* What is kept of a table between two instances; beyond it the kernel takes the pages back. */
#define TABLE_KEPT 65536u

static void close_wasm(struct engine *engine)
{
	struct wasm *wasm = (struct wasm *)engine;

	if (wasm->pre)
		wasm->api.wasmtime_instance_pre_delete(wasm->pre);
	if (wasm->module)
		wasm->api.wasmtime_module_delete(wasm->module);
	if (wasm->runtime)
		wasm->api.wasm_engine_delete(wasm->runtime);
	free(wasm);
}

/* `settings` and what it points to must live as long as the engine. */
static struct wasm *new_wasm(const struct tempos_wasm_settings *settings, char *why, size_t room)
{
	struct wasm *wasm = calloc(1, sizeof(*wasm));
	struct wasmtime *api;
	void *config, *pool;

	if (!wasm) {
		snprintf(why, room, "no memory");
		return NULL;
	}
	api = &wasm->api;
	wasm->engine = (struct engine){ .call = call_wasm, .idle = flush_wasm, .close = close_wasm };
	wasm->settings = settings;
	if (load_wasmtime(settings->library, api, why, room)) {
		free(wasm);
		return NULL;
	}
	config = api->wasm_config_new();
	api->wasmtime_config_epoch_interruption_set(config, true);
	if (settings->scarce) {
		/* No guard around the memory: its bounds are checked in code. */
		api->wasmtime_config_memory_reservation_set(config, settings->memory);
		api->wasmtime_config_memory_guard_size_set(config, 0);
	}
	pool = api->wasmtime_pooling_allocation_config_new();
	api->wasmtime_pooling_allocation_config_total_core_instances_set(pool, 1);
	api->wasmtime_pooling_allocation_config_total_memories_set(pool, 1);
	api->wasmtime_pooling_allocation_config_total_tables_set(pool, settings->tables);
	/* Stacks are for calls that are suspended, and there are none. */
	api->wasmtime_pooling_allocation_config_total_stacks_set(pool, 1);
	api->wasmtime_pooling_allocation_config_total_gc_heaps_set(pool, 1);
	api->wasmtime_pooling_allocation_config_max_tables_per_module_set(pool, settings->tables);
	api->wasmtime_pooling_allocation_config_table_elements_set(pool, settings->table_elements);
	api->wasmtime_pooling_allocation_config_max_memory_size_set(pool, settings->memory);
	api->wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(pool, settings->keep);
	api->wasmtime_pooling_allocation_config_table_keep_resident_set(pool, TABLE_KEPT);
	api->wasmtime_pooling_allocation_strategy_set(config, pool);
	api->wasmtime_pooling_allocation_config_delete(pool);
	wasm->runtime = api->wasm_engine_new_with_config(config);
	if (!wasm->runtime) {
		snprintf(why, room, "the engine cannot be made");
		close_wasm(&wasm->engine);
		return NULL;
	}
	return wasm;
}

static int set_module(struct wasm *wasm, const uint8_t *bytes, size_t length, int compiled, char *why, size_t room)
{
	void *error = (compiled ? wasm->api.wasmtime_module_deserialize : wasm->api.wasmtime_module_new)(
		wasm->runtime, bytes, length, &wasm->module);

	if (error)
		take_error(&wasm->api, error, why, room);
	return error ? -1 : 0;
}

static void *define(struct wasm *wasm, void *linker, const char *name, const char *parameters, const char *result,
		    host_function_t *function)
{
	const struct wasmtime *api = &wasm->api;
	void *types[4], *type, *error;
	pointers_t in, out;
	size_t n;

	for (n = 0; parameters[n]; n++)
		types[n] = api->wasm_valtype_new(parameters[n] == 'i' ? TYPE_I32 : TYPE_I64);
	api->wasm_valtype_vec_new(&in, n, types);
	for (n = 0; result[n]; n++)
		types[n] = api->wasm_valtype_new(result[n] == 'i' ? TYPE_I32 : TYPE_I64);
	api->wasm_valtype_vec_new(&out, n, types);
	type = api->wasm_functype_new(&in, &out);
	error = api->wasmtime_linker_define_func_unchecked(linker, "tempos", 6, name, strlen(name), type, function,
							   wasm, NULL);
	api->wasm_functype_delete(type);
	return error;
}

/* Binds what the module imports, and gets the timer for deadlines. */
static int bind_wasm(struct wasm *wasm, char *why, size_t room)
{
	const struct wasmtime *api = &wasm->api;
	void *linker = api->wasmtime_linker_new(wasm->runtime), *error;
	int refused;

	error = define(wasm, linker, "event", "i", "l", host_event);
	if (!error)
		error = define(wasm, linker, "text", "iii", "i", host_text);
	if (!error)
		error = define(wasm, linker, "told", "ii", "i", host_told);
	if (!error)
		error = define(wasm, linker, "log", "ii", "", host_log);
	if (!error && wasm->settings->wasi)
		error = api->wasmtime_linker_define_wasi(linker);
	if (!error)
		error = api->wasmtime_linker_instantiate_pre(linker, wasm->module, &wasm->pre);
	if (error)
		take_error(api, error, why, room);
	api->wasmtime_linker_delete(linker);
	if (error)
		return -1;
	refused = has_deadline_timer ? 0 :
		timer_for_this_thread(CLOCK_MONOTONIC, SIGNAL_DEADLINE, look_at_deadline, &deadline_timer);
	if (refused) {
		snprintf(why, room, "no timer for its deadlines: %s", strerror(-refused));
		return -1;
	}
	has_deadline_timer = 1;
	return 0;
}

#endif
