/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Random numbers that no peer can guess, without a system call for each: the
 * kernel's, taken 512 bytes at a time. A resolver is of no use in a forked
 * child, so that no two processes share a pool.
 */
#ifndef KL_DNS_RANDOM_H
#define KL_DNS_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct kl_random {
	uint8_t pool[512];
	size_t left; /* unused bytes, at the pool's end */
};

/* bytes: at most 64. 0, or a negative errno with nothing written. */
int kl_random_fill(struct kl_random *random, void *buffer, size_t bytes);

#endif
