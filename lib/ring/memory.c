/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void *libc_malloc(size_t size, void *data)
{
	(void)data;
	return malloc(size);
}

static void *libc_realloc(void *memory, size_t size, void *data)
{
	(void)data;
	return realloc(memory, size);
}

static void libc_free(void *memory, void *data)
{
	(void)data;
	free(memory);
}

static const struct kloop_allocator libc_allocator = {
	.malloc = libc_malloc,
	.realloc = libc_realloc,
	.free = libc_free,
};

static struct kloop_allocator in_force = {
	.malloc = libc_malloc,
	.realloc = libc_realloc,
	.free = libc_free,
};

int kloop_set_allocator(const struct kloop_allocator *allocator)
{
	if (allocator == NULL)
		allocator = &libc_allocator;
	if (allocator->malloc == NULL || allocator->realloc == NULL || allocator->free == NULL)
		return -EINVAL;
	in_force = *allocator;
	return 0;
}

void *kl_malloc(size_t size)
{
	return in_force.malloc(size, in_force.data);
}

void *kl_calloc(size_t count, size_t size)
{
	size_t bytes;
	void *memory;

	if (__builtin_mul_overflow(count, size, &bytes))
		return NULL;
	memory = in_force.malloc(bytes, in_force.data);
	if (memory != NULL)
		memset(memory, 0, bytes);
	return memory;
}

void *kl_realloc(void *memory, size_t size)
{
	return in_force.realloc(memory, size, in_force.data);
}

void kl_free(void *memory)
{
	if (memory != NULL)
		in_force.free(memory, in_force.data);
}
