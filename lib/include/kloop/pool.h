/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Pools of buffers that the kernel picks from when data arrives (a "provided
 * buffer ring"), so that connections that wait hold no memory.
 */
#ifndef KLOOP_POOL_H
#define KLOOP_POOL_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_pool;

/*
 * Make a pool and give all its buffers to the kernel.
 *
 * count: a power of two from 1 to 32768.
 * buffer_bytes: the size of each, 256 to 1 MiB.
 *
 * Ownership: the caller frees it with kloop_pool_free(), before the loop and
 * after every operation on it has completed.
 * Thread: the owner of the loop.
 * Returns: 0; -EINVAL; -ENOMEM; -EOPNOTSUPP where the loop lacks
 * KLOOP_FEATURE_BUFFER_RING; -ENOSPC if 65536 pools exist; -EPERM, -ECHILD,
 * -ESTALE as everywhere.
 * Kernel: 5.19.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_pool_new(struct kloop_loop *loop, unsigned count, size_t buffer_bytes,
				struct kloop_pool **ret_pool) KLOOP_MUST_CHECK;

/* Free a pool; NULL is permitted. Thread: the owner. */
KLOOP_EXPORT void kloop_pool_free(struct kloop_pool *pool);

/*
 * The buffer that a completion used.
 *
 * flags: of the completion.
 * ret_buffer: its start.
 * ret_id: its number, for kloop_pool_give().
 *
 * Ownership: the caller's until it is given back.
 * Returns: 0; -ENOENT if the completion used no buffer.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_pool_get(struct kloop_pool *pool, uint32_t flags, void **ret_buffer,
				unsigned *ret_id) KLOOP_MUST_CHECK;

/* Give a buffer back to the kernel, once. Thread: the owner. */
KLOOP_EXPORT void kloop_pool_give(struct kloop_pool *pool, unsigned id);

KLOOP_END_DECLS

#endif
