/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A loop with options, driven turn by turn: what it got from the kernel, an end
 * by kloop_loop_stop(), a wake-up, and the counters at the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <kloop.h>
#include <stdio.h>
#include <string.h>

/* Ask for a thread of the kernel that polls the queue, if the user wants it. */
static int make_loop(bool sqpoll, struct kloop_loop **ret_loop)
{
	struct kloop_loop_options *options;
	int error = kloop_loop_options_new(&options);

	if (error < 0)
		return error;
	error = kloop_loop_options_set_entries(options, 256, 4096);
	if (error == 0 && sqpoll)
		error = kloop_loop_options_set_sqpoll(options, true, 100, -1);
	if (error == 0) /* look for completions for 20 us before sleeping */
		error = kloop_loop_options_set_spin(options, 20000);
	if (error == 0)
		error = kloop_loop_options_set_receive_pool(options, 64, 8192);
	/* Registering the ring's descriptor saves a little; a test may want it off. */
	kloop_loop_options_set_without(options, KLOOP_FEATURE_REGISTERED_RING);
	if (error == 0)
		error = kloop_loop_new(options, ret_loop);
	kloop_loop_options_free(options);
	return error;
}

static void on_nop(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	printf("an operation completed with %" PRId32 "\n", result);
}

static void before_wait(void *data)
{
	unsigned *sleeps = data;

	(*sleeps)++;
}

static struct kloop_loop *loop_to_stop;

static void stop(struct kloop_call *call)
{
	(void)call;
	kloop_loop_stop(loop_to_stop);
}

int main(int argc, char **argv)
{
	bool sqpoll = argc > 1 && strcmp(argv[1], "--sqpoll") == 0;
	struct kloop_call call = { .call = stop };
	struct kloop_stats stats;
	struct kloop_loop *loop;
	struct kloop_op op;
	unsigned sleeps = 0;
	int result = make_loop(sqpoll, &loop);

	if (result < 0) {
		fprintf(stderr, "%s: %s\n", kloop_error_name(result), kloop_strerror(result));
		return 1;
	}
	printf("SINGLE_ISSUER %s, SQPOLL %s\n",
	       kloop_loop_get_features(loop) & KLOOP_FEATURE_SINGLE_ISSUER ? "yes" : "no",
	       kloop_loop_get_features(loop) & KLOOP_FEATURE_SQPOLL ? "yes" : "no");
	kloop_loop_set_before_wait(loop, before_wait, &sleeps);

	/* An operation that is prepared leaves with the next turn. */
	kloop_op_init(&op, on_nop);
	result = kloop_op_nop(loop, &op);
	printf("ready: %s\n", kloop_loop_is_ready(loop) ? "yes" : "no");
	while (result >= 0 && kloop_op_is_active(&op))
		result = kloop_loop_turn(loop, KLOOP_FOREVER);

	/* Nothing to do: the turn ends with its time-out, and called nothing. */
	if (result >= 0)
		result = kloop_loop_turn(loop, 10000000);
	printf("an idle turn called %d\n", result);

	/* A wake-up ends the wait of the next turn; any thread may send it. */
	if (result >= 0)
		result = kloop_loop_wake(loop);
	if (result >= 0)
		result = kloop_loop_turn(loop, KLOOP_FOREVER);

	/* Here run() ends because a posted call stops it. */
	loop_to_stop = loop;
	if (result >= 0)
		result = kloop_loop_post(loop, &call);
	if (result >= 0)
		result = kloop_loop_run(loop);
	if (result >= 0)
		result = kloop_loop_get_stats(loop, &stats, sizeof(stats));
	if (result < 0) {
		fprintf(stderr, "%s\n", kloop_strerror(result));
		return 1;
	}
	printf("%" PRIu64 " turns, %" PRIu64 " enters, slept at most %u times\n", stats.turns,
	       stats.enters, sleeps);
	return kloop_loop_free(loop) < 0;
}
