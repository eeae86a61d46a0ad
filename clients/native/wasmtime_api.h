/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is used of the C interface of Wasmtime 50, found in its shared library when a worker starts.
 *
 * Nothing is linked: the library lies inside a Python package and has no name that a loader could go by.
 */
#ifndef TEMPOS_WASMTIME_API_H
#define TEMPOS_WASMTIME_API_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

typedef struct { size_t size; uint8_t *data; } bytes_t;
typedef struct { size_t size; void **data; } pointers_t;
typedef struct { uint64_t store; void *private_; } func_t;
typedef struct { uint64_t store; size_t private_; } instance_t;
typedef struct { struct { uint64_t store; uint32_t private1; } head; uint32_t private2; } memory_t;
typedef struct {
	uint8_t kind;
	union { func_t func; memory_t memory; uint64_t other[3]; } of;
} extern_t;
typedef union { int32_t i32; int64_t i64; uint8_t v128[16]; } raw_t;

_Static_assert(sizeof(extern_t) == 32 && sizeof(raw_t) == 16 && sizeof(memory_t) == 24, "as the library has them");

enum { KIND_FUNC = 0, KIND_MEMORY = 3 };
enum { TYPE_I32 = 0, TYPE_I64 = 1 };
enum { TRAP_STACK_OVERFLOW = 0, TRAP_INTERRUPT = 10 };

typedef void *host_function_t(void *data, void *caller, raw_t *values, size_t count);
typedef ssize_t output_t(void *data, const uint8_t *bytes, size_t length);

/* Result, name, parameters. Engine, store and the like are opaque; an error is NULL where there is none. */
#define WASMTIME_FUNCTIONS(F) \
	F(void *, wasm_config_new, (void)) \
	F(void *, wasm_engine_new_with_config, (void *config)) \
	F(void, wasm_engine_delete, (void *engine)) \
	F(void, wasm_byte_vec_new, (bytes_t *out, size_t size, const uint8_t *data)) \
	F(void, wasm_byte_vec_delete, (bytes_t *bytes)) \
	F(void, wasm_trap_message, (const void *trap, bytes_t *out)) \
	F(void, wasm_trap_delete, (void *trap)) \
	F(void *, wasm_valtype_new, (uint8_t kind)) \
	F(void, wasm_valtype_vec_new, (pointers_t *out, size_t size, void *const *types)) \
	F(void *, wasm_functype_new, (pointers_t *parameters, pointers_t *results)) \
	F(void, wasm_functype_delete, (void *type)) \
	F(void, wasmtime_config_epoch_interruption_set, (void *config, bool on)) \
	F(void, wasmtime_config_memory_reservation_set, (void *config, uint64_t bytes)) \
	F(void, wasmtime_config_memory_guard_size_set, (void *config, uint64_t bytes)) \
	F(void, wasmtime_pooling_allocation_strategy_set, (void *config, const void *pool)) \
	F(void *, wasmtime_pooling_allocation_config_new, (void)) \
	F(void, wasmtime_pooling_allocation_config_delete, (void *pool)) \
	F(void, wasmtime_pooling_allocation_config_linear_memory_keep_resident_set, (void *pool, size_t bytes)) \
	F(void, wasmtime_pooling_allocation_config_table_keep_resident_set, (void *pool, size_t bytes)) \
	F(void, wasmtime_pooling_allocation_config_total_core_instances_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_total_memories_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_total_tables_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_total_stacks_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_total_gc_heaps_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_max_tables_per_module_set, (void *pool, uint32_t count)) \
	F(void, wasmtime_pooling_allocation_config_table_elements_set, (void *pool, size_t count)) \
	F(void, wasmtime_pooling_allocation_config_max_memory_size_set, (void *pool, size_t bytes)) \
	F(void, wasmtime_engine_increment_epoch, (void *engine)) \
	F(void *, wasmtime_module_new, (void *engine, const uint8_t *wasm, size_t length, void **module)) \
	F(void *, wasmtime_module_serialize, (void *module, bytes_t *out)) \
	F(void *, wasmtime_module_deserialize, (void *engine, const uint8_t *bytes, size_t length, void **module)) \
	F(void, wasmtime_module_delete, (void *module)) \
	F(void *, wasmtime_linker_new, (void *engine)) \
	F(void, wasmtime_linker_delete, (void *linker)) \
	F(void *, wasmtime_linker_define_wasi, (void *linker)) \
	F(void *, wasmtime_linker_define_func_unchecked, (void *linker, const char *module, size_t module_length, \
		const char *name, size_t name_length, const void *type, host_function_t *function, void *data, \
		void (*finalizer)(void *))) \
	F(void *, wasmtime_linker_instantiate_pre, (const void *linker, const void *module, void **pre)) \
	F(void, wasmtime_instance_pre_delete, (void *pre)) \
	F(void *, wasmtime_instance_pre_instantiate, (const void *pre, void *context, instance_t *instance, \
		void **trap)) \
	F(bool, wasmtime_instance_export_get, (void *context, const instance_t *instance, const char *name, \
		size_t length, extern_t *out)) \
	F(bool, wasmtime_caller_export_get, (void *caller, const char *name, size_t length, extern_t *out)) \
	F(void *, wasmtime_caller_context, (void *caller)) \
	F(void *, wasmtime_store_new, (void *engine, void *data, void (*finalizer)(void *))) \
	F(void *, wasmtime_store_context, (void *store)) \
	F(void, wasmtime_store_delete, (void *store)) \
	F(void, wasmtime_context_set_epoch_deadline, (void *context, uint64_t ticks)) \
	F(void *, wasmtime_context_set_wasi, (void *context, void *wasi)) \
	F(void *, wasmtime_func_call_unchecked, (void *context, const func_t *function, raw_t *values, size_t count, \
		void **trap)) \
	F(uint8_t *, wasmtime_memory_data, (const void *context, const memory_t *memory)) \
	F(size_t, wasmtime_memory_data_size, (const void *context, const memory_t *memory)) \
	F(void, wasmtime_error_message, (const void *error, bytes_t *out)) \
	F(bool, wasmtime_error_exit_status, (const void *error, int *status)) \
	F(void, wasmtime_error_delete, (void *error)) \
	F(bool, wasmtime_trap_code, (const void *trap, uint8_t *code)) \
	F(void *, wasi_config_new, (void)) \
	F(void, wasi_config_delete, (void *wasi)) \
	F(bool, wasi_config_set_argv, (void *wasi, size_t count, const char *const *argv)) \
	F(bool, wasi_config_set_env, (void *wasi, size_t count, const char *const *names, const char *const *values)) \
	F(void, wasi_config_set_stdin_bytes, (void *wasi, bytes_t *bytes)) \
	F(void, wasi_config_set_stdout_custom, (void *wasi, output_t *output, void *data, void (*finalizer)(void *))) \
	F(void, wasi_config_set_stderr_custom, (void *wasi, output_t *output, void *data, void (*finalizer)(void *))) \
	F(bool, wasi_config_preopen_dir, (void *wasi, const char *host, const char *guest, bool writable))

#define POINTER(result, name, parameters) result(*name) parameters;
struct wasmtime {
	WASMTIME_FUNCTIONS(POINTER)
};
#undef POINTER

/* 0, or -1 and why. */
static int load_wasmtime(const char *path, struct wasmtime *api, char *why, size_t room)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		snprintf(why, room, "%s", dlerror());
		return -1;
	}
#define FIND(result, name, parameters) \
	*(void **)&api->name = dlsym(library, #name); \
	if (!api->name) { \
		snprintf(why, room, "%s has no %s", path, #name); \
		return -1; \
	}
	WASMTIME_FUNCTIONS(FIND)
#undef FIND
	return 0;
}

#endif
