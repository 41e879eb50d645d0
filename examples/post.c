/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Threads: a worker computes, and posts each result to the loop's thread, where
 * it is used without a lock.
 */
#include <errno.h>
#include <kloop.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define JOBS 5

struct result {
	struct kloop_call call; /* first, so that its address is the result's */
	struct server *server;
	unsigned number;
	unsigned long sum;
};

struct server {
	struct kloop_loop *loop;
	unsigned results_left;
};

/* On the loop's thread. */
static void use_result(struct kloop_call *call)
{
	struct result *result = (struct result *)call;
	struct server *server = result->server;

	printf("job %u: %lu\n", result->number, result->sum);
	free(result);
	server->results_left--;
}

/* On a thread of its own: here blocking calls and long loops do no harm. */
static void *work(void *argument)
{
	struct server *server = argument;

	for (unsigned number = 1; number <= JOBS; number++) {
		struct result *result = calloc(1, sizeof(*result));
		int error;

		if (!result)
			abort();
		result->call.call = use_result;
		result->server = server;
		result->number = number;
		for (unsigned long i = 1; i <= 1000UL * number; i++)
			result->sum += i;
		/* Until use_result() is called the memory belongs to the loop. */
		error = kloop_loop_post(server->loop, &result->call);
		if (error < 0) {
			fprintf(stderr, "kloop_loop_post: %s\n", kloop_strerror(error));
			abort();
		}
	}
	return NULL;
}

int main(void)
{
	struct server server = { .results_left = JOBS };
	pthread_t worker;
	int error = kloop_loop_new(NULL, &server.loop);

	if (error < 0) {
		fprintf(stderr, "kloop_loop_new: %s\n", kloop_strerror(error));
		return 1;
	}
	if (pthread_create(&worker, NULL, work, &server) != 0)
		return 1;

	/*
	 * kloop_loop_run() would return at once: a thread that may post some day
	 * is nothing that the loop can know of. So turn until told otherwise.
	 */
	while (server.results_left > 0 && (error >= 0 || error == -EINTR))
		error = kloop_loop_turn(server.loop, KLOOP_FOREVER);
	if (server.results_left > 0) {
		fprintf(stderr, "kloop_loop_turn: %s\n", kloop_strerror(error));
		return 1;
	}
	pthread_join(worker, NULL);
	kloop_loop_free(server.loop);
	return 0;
}
