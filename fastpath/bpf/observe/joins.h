/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets that processes connect, and that they accept: what sofamily and soprotocol both look at.
 */
#ifndef TEMPOS_JOINS_H
#define TEMPOS_JOINS_H

#include "calls.h"
#include "counts.h"
#include "files.h"

/* What user space puts into `calls`. */
enum { CONNECT = 1, ACCEPT };

/* The socket that a call has connected or tried to, or has accepted; NULL: none. */
static __always_inline struct sock *joined(const struct call *call, long result)
{
	if (call->kind == CONNECT)
		return socket_of(argument(call, 0));
	return result < 0 ? NULL : socket_of(result);
}

#endif
