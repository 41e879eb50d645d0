/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The counting allocator of fault.h. */
#include "fault.h"

#include <kloop/base.h>

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK_USED 0x6b6c6f6f70757365ull
#define MARK_FREE 0x6b6c6f6f70667265ull

/* In front of each block; its size keeps the alignment of malloc(3). */
struct header {
	_Alignas(max_align_t) uint64_t mark;
	size_t size;
};

static _Atomic size_t calls, blocks, bytes, hits;
static _Atomic size_t countdown, remaining;
static _Atomic bool endless;
static _Atomic int paused;

static void die(const char *what, const void *memory)
{
	fprintf(stderr, "fault counter: %s %p\n", what, memory);
	abort();
}

static struct header *header_of(void *memory, const char *what)
{
	struct header *header = (struct header *)memory - 1;

	if (header->mark != MARK_USED)
		die(header->mark == MARK_FREE ? "used after free:" : what, memory);
	return header;
}

/* Must this allocation fail? Counts down to the first, then through the run. */
static bool fails(void)
{
	size_t left;

	if (atomic_load(&paused) > 0)
		return false;
	left = atomic_load(&countdown);
	while (left > 1) {
		if (atomic_compare_exchange_weak(&countdown, &left, left - 1))
			return false;
	}
	if (left == 0)
		return false;
	atomic_fetch_add(&hits, 1);
	if (!atomic_load(&endless) && atomic_fetch_sub(&remaining, 1) == 1)
		atomic_store(&countdown, 0);
	return true;
}

static void *fault_malloc(size_t size, void *data)
{
	struct header *header;

	(void)data;
	atomic_fetch_add(&calls, 1);
	if (fails())
		return NULL;
	header = malloc(sizeof(*header) + size);
	if (!header)
		die("libc has no memory", NULL);
	header->mark = MARK_USED;
	header->size = size;
	memset(header + 1, 0xa5, size);
	atomic_fetch_add(&blocks, 1);
	atomic_fetch_add(&bytes, size);
	return header + 1;
}

static void fault_free(void *memory, void *data)
{
	struct header *header;

	(void)data;
	if (!memory)
		return;
	header = header_of(memory, "free of a foreign block");
	atomic_fetch_sub(&blocks, 1);
	atomic_fetch_sub(&bytes, header->size);
	header->mark = MARK_FREE;
	memset(memory, 0xdd, header->size);
	free(header);
}

static void *fault_realloc(void *memory, size_t size, void *data)
{
	struct header *header;
	void *fresh;

	if (!memory)
		return fault_malloc(size, data);
	header = header_of(memory, "realloc of a foreign block");
	fresh = fault_malloc(size, data);
	if (!fresh)
		return NULL;
	memcpy(fresh, memory, header->size < size ? header->size : size);
	fault_free(memory, data);
	return fresh;
}

void kt_fault_install(void)
{
	static const struct kloop_allocator allocator = {
		.malloc = fault_malloc,
		.realloc = fault_realloc,
		.free = fault_free,
	};

	atomic_store(&calls, 0);
	atomic_store(&blocks, 0);
	atomic_store(&bytes, 0);
	atomic_store(&paused, 0);
	kt_fault_arm(0, 0);
	if (kloop_set_allocator(&allocator))
		die("the library refuses the allocator", NULL);
}

void kt_fault_remove(void)
{
	if (atomic_load(&blocks))
		die("blocks are outstanding at", &blocks);
	if (kloop_set_allocator(NULL))
		die("the library refuses libc's allocator", NULL);
}

void kt_fault_arm(size_t first, size_t repeat)
{
	atomic_store(&countdown, 0);
	atomic_store(&hits, 0);
	atomic_store(&remaining, repeat);
	atomic_store(&endless, repeat == 0);
	atomic_store(&countdown, first);
}

void kt_fault_pause(void)
{
	atomic_fetch_add(&paused, 1);
}

void kt_fault_resume(void)
{
	atomic_fetch_sub(&paused, 1);
}

size_t kt_fault_hits(void)
{
	return atomic_load(&hits);
}

size_t kt_fault_calls(void)
{
	return atomic_load(&calls);
}

size_t kt_fault_blocks(void)
{
	return atomic_load(&blocks);
}

size_t kt_fault_bytes(void)
{
	return atomic_load(&bytes);
}

bool kt_fault_owns(const void *memory)
{
	return memory && ((const struct header *)memory - 1)->mark == MARK_USED;
}
