/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Memory functions of one's own: count what the library allocates. And the
 * names of codes, and the version.
 */
#include <errno.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>

/* Counters without a lock: this program has one thread. */
struct counters {
	size_t given;
	size_t freed;
};

static void *count_malloc(size_t size, void *data)
{
	struct counters *counters = data;
	void *memory = malloc(size);

	counters->given += memory != NULL;
	return memory;
}

static void *count_realloc(void *memory, size_t size, void *data)
{
	struct counters *counters = data;
	void *result = realloc(memory, size);

	counters->given += !memory && result;
	return result;
}

static void count_free(void *memory, void *data)
{
	struct counters *counters = data;

	counters->freed += memory != NULL;
	free(memory);
}

int main(void)
{
	struct counters counters = { 0 };
	struct kloop_allocator allocator = {
		.malloc = count_malloc,
		.realloc = count_realloc,
		.free = count_free,
		.data = &counters,
	};
	struct kloop_loop *loop;
	int error = kloop_set_allocator(&allocator); /* before anything else */

	printf("libkloop %s, compiled with %s\n", kloop_version(), KLOOP_VERSION_STRING);
	if (error == 0)
		error = kloop_loop_new(NULL, &loop);
	if (error < 0) {
		/* "KLOOP_ERROR_RING_DENIED" for programs, a sentence for people. */
		fprintf(stderr, "%s: %s\n", kloop_error_name(error), kloop_strerror(error));
		return 1;
	}
	kloop_loop_free(loop);
	if (counters.given == 0 || counters.given != counters.freed)
		return 1;
	printf("all that was allocated is freed\n");
	printf("%s: %s\n", kloop_error_name(-ENOENT), kloop_strerror(-ENOENT));
	/* Those of libc again; nothing is left that the counting ones gave. */
	return kloop_set_allocator(NULL) < 0;
}
