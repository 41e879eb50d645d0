/* SPDX-License-Identifier: MulanPSL-2.0 */
#ifndef KL_POOL_H
#define KL_POOL_H

#include "internal.h"

struct kloop_pool {
	struct kloop_loop *loop;
	struct kloop_pool *next;
	struct io_uring_buf_ring *entries; /* shared with the kernel, page-aligned */
	size_t entries_bytes;
	char *memory;
	size_t buffer_bytes;
	unsigned count;
	unsigned used; /* the first so many are handed to the kernel, the others not yet */
	unsigned lent; /* taken by completions and not given back */
	int mask;
	uint16_t group;
	uint64_t *lent_bits; /* which, so that what is lost with a ring can be found again */
};

#endif
