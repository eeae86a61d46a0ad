/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python cannot say to libbpf by itself: option structs, a print callback with a va_list, atomic
 * access to a shared mapping, and a loop of test runs without Python in it. One header an idea, compiled as one.
 *
 * Rules: nothing is decided here and nothing is kept between calls but libbpf's last warnings, per
 * thread. Nothing here knows what a program is for. Errors are negative errno values. Types that outlive a
 * call belong to libbpf; only tempos_bpf sees the pointers.
 */
#include "libbpf_links.h"
#include "libbpf_maps.h"
#include "libbpf_objects.h"
#include "libbpf_rings.h"
#include "libbpf_runs.h"
#include "libbpf_shown.h"
#include "libbpf_tracing.h"
#include "libbpf_types.h"
#include "libbpf_words.h"
