/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layouts that programs and Python share, as the compiler lays them out, and the two computations on them
 * that both sides make. Needs no libbpf.
 */
#include <stdint.h>

#include "abi.h"
#include "buckets.h"
#include "limit.h"
