/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records between the invoker and a worker, with what follows from them.
 *
 * The structs themselves stand in functions.cdef, which Python reads, too.
 */
#ifndef TEMPOS_WORKER_H
#define TEMPOS_WORKER_H

#include <stddef.h>
#include <stdint.h>

#include "functions.cdef"

_Static_assert(sizeof(struct tempos_call) == 48 && sizeof(struct tempos_answer) == 32, "no padding");

#define TEMPOS_LARGEST_BODY (TEMPOS_MESSAGE - sizeof(struct tempos_call))
#define TEMPOS_LARGEST_OUTPUT (TEMPOS_MESSAGE - sizeof(struct tempos_answer))

#endif
