/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The library's memory functions, and helpers that every room uses. */
#ifndef KL_MEMORY_H
#define KL_MEMORY_H

#include <kloop/base.h>

void *kl_malloc(size_t size) __attribute__((malloc, alloc_size(1)));
void *kl_calloc(size_t count, size_t size) __attribute__((malloc, alloc_size(1, 2)));
void *kl_realloc(void *memory, size_t size);
void kl_free(void *memory);

#define kl_container_of(pointer, type, member) \
	((type *)(void *)((char *)(pointer) - offsetof(type, member)))

#endif
