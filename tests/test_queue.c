/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Queues that are too small: nothing is lost, nothing is reordered, all is counted. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define MANY 5000

static struct kt_op ops[MANY];
static int done_count;
static int done_order[MANY];

static void note_done(struct kt_op *op)
{
	done_order[done_count++] = (int)(op - ops);
}

static void init_ops(int count)
{
	done_count = 0;
	for (int i = 0; i < count; i++) {
		kt_op_init(&ops[i]);
		ops[i].then = note_done;
	}
}

/* Queues of this size on a rung of the ladder. */
static struct kloop_loop *sized(int rung, unsigned submissions, unsigned completions)
{
	static const uint64_t without[] = {
		0, KLOOP_FEATURE_DEFER_TASKRUN, KLOOP_FEATURE_DEFER_TASKRUN | KLOOP_FEATURE_COOP_TASKRUN, 0,
	};
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, submissions, completions), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, rung == 3, 20, -1), 0);
	kloop_loop_options_set_without(options, without[rung]);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

static void check_all_done(int count)
{
	ck_assert_int_eq(done_count, count);
	for (int i = 0; i < count; i++)
		ck_assert_int_eq(ops[i].last, 1);
}

/* ---- the submission queue is full ------------------------------------- */

START_TEST(thousands_through_four_entries)
{
	struct kloop_loop *loop = sized(_i, 4, 8192);

	init_ops(MANY);
	for (int i = 0; i < MANY; i++)
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	ck_assert_uint_eq(KT_STAT(loop, in_flight), MANY);
	kt_turn_until(loop, &done_count, MANY);
	check_all_done(MANY);
	/* With SQPOLL the kernel's thread may have kept up. */
	if (_i != 3)
		ck_assert_uint_gt(KT_STAT(loop, queue_full), 0);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(thousands_before_the_first_turn)
{
	struct kloop_loop *loop = sized(_i, 4, 4);

	/* Not bound yet: nothing can reach the kernel, so all of it is kept. */
	init_ops(MANY);
	for (int i = 0; i < MANY; i++)
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	kt_turn_until(loop, &done_count, MANY);
	check_all_done(MANY);
	kt_loop_free(loop);
}
END_TEST

START_TEST(order_is_kept_when_full)
{
	struct kloop_loop *loop = sized(_i, 4, 64);
	static char bytes[256], back[256];
	int fds[2];

	/* Writes to a pipe in the order of submission, though most had to wait. */
	kt_pipe(fds);
	kt_turn(loop, 0);
	init_ops(256);
	for (int i = 0; i < 256; i++) {
		bytes[i] = (char)i;
		KT_ACCEPTED(kloop_op_write(loop, &ops[i].op, fds[1], &bytes[i], 1, UINT64_MAX));
	}
	kt_turn_until(loop, &done_count, 256);
	ck_assert_int_eq(read(fds[0], back, sizeof(back)), 256);
	ck_assert_mem_eq(back, bytes, sizeof(back));
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(cancel_what_waits_outside_the_queue)
{
	struct kloop_loop *loop = sized(_i, 1, 1);
	int fds[2];

	kt_pipe(fds);
	init_ops(100);
	for (int i = 0; i < 100; i++)
		KT_ACCEPTED(kloop_op_poll(loop, &ops[i].op, fds[0], POLLIN));
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&ops[i].op)), 0);
	kt_turn_until(loop, &done_count, 100);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(ops[i].result, -ECANCELED);
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

static void submit_two_more(struct kt_op *op)
{
	int i = (int)(op - ops);

	note_done(op);
	for (int child = 2 * i + 1; child <= 2 * i + 2 && child < MANY; child++)
		ck_assert_int_eq(kloop_op_nop(op->op.loop, &ops[child].op), 0);
}

START_TEST(callbacks_overfill_the_queue)
{
	struct kloop_loop *loop = sized(_i, 2, 4);

	init_ops(MANY);
	for (int i = 0; i < MANY; i++)
		ops[i].then = submit_two_more;
	KT_ACCEPTED(kloop_op_nop(loop, &ops[0].op));
	kt_turn_until(loop, &done_count, MANY);
	check_all_done(MANY);
	kt_loop_free(loop);
}
END_TEST

START_TEST(free_with_a_full_queue)
{
	int fds[2];

	kt_pipe(fds);
	for (int turned = 0; turned < 2; turned++) {
		struct kloop_loop *loop = sized(_i, 2, 2);

		if (turned)
			kt_turn(loop, 0);
		init_ops(500);
		for (int i = 0; i < 500; i++)
			KT_ACCEPTED(kloop_op_poll(loop, &ops[i].op, fds[0], POLLIN));
		kt_loop_free(loop);
		check_all_done(500);
		for (int i = 0; i < 500; i++)
			ck_assert_int_eq(ops[i].result, -ECANCELED);
	}
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

static void *wake_after_a_while(void *data)
{
	kt_sleep_ms(20);
	ck_assert_int_eq(kloop_loop_wake(data), 0);
	return NULL;
}

/*
 * What watches for wake-ups is submitted as the last before the wait: if it finds
 * the queue full, which a polling thread that sleeps does not empty at once, the
 * loop must not wait without it.
 */
START_TEST(a_full_queue_loses_no_wake)
{
	struct kloop_loop *loop = sized(_i, 1, 1);
	struct kt_timer guard;
	int fds[2];

	kt_pipe(fds);
	kt_turn(loop, 0);
	kt_timer_init(&guard);
	ck_assert_int_eq(kloop_timer_start(loop, &guard.timer,
					   kloop_now() + KT_PATIENCE_MS * KT_MS),
			 0);
	init_ops(8);
	for (int i = 0; i < 8; i++) {
		pthread_t thread;

		/* The polling thread falls asleep. */
		kt_sleep_ms(30);
		KT_ACCEPTED(kloop_op_poll(loop, &ops[i].op, fds[0], POLLIN));
		thread = kt_thread(wake_after_a_while, loop);
		kt_turn(loop, KLOOP_FOREVER);
		kt_join(thread);
		kt_turn(loop, 0);
		ck_assert_int_eq(guard.fired, 0);
	}
	ck_assert_int_eq(done_count, 0);
	kt_loop_free(loop);
	check_all_done(8);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

/* ---- the completion queue overflows ----------------------------------- */

START_TEST(many_events_at_once)
{
	struct kloop_loop *loop = sized(_i, 4, 4);
	int fds[2];
	uint64_t counted;

	kt_pipe(fds);
	init_ops(1000);
	for (int i = 0; i < 1000; i++)
		KT_ACCEPTED(kloop_op_poll(loop, &ops[i].op, fds[0], POLLIN));
	while (kloop_loop_is_ready(loop))
		kt_turn(loop, 0);
	ck_assert_int_eq(done_count, 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	kt_turn_until(loop, &done_count, 1000);
	check_all_done(1000);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(ops[i].result, POLLIN);
	counted = KT_STAT(loop, overflows);
	ck_assert_uint_gt(counted, 0);
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(waits_see_what_overflowed)
{
	struct kloop_loop *loop = sized(_i, 64, 64);
	uint64_t start = kloop_now();

	/* More completions than fit, each turn willing to wait for ever. */
	for (int round = 0; round < 20; round++) {
		init_ops(300);
		for (int i = 0; i < 300; i++)
			KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
		while (done_count < 300)
			kt_turn(loop, KLOOP_FOREVER);
		check_all_done(300);
	}
	ck_assert_uint_lt(kloop_now() - start, KT_PATIENCE_MS * KT_MS);
	kt_loop_free(loop);
}
END_TEST

/* ---- counters --------------------------------------------------------- */

START_TEST(every_submission_counts_once)
{
	struct kloop_loop *loop = sized(_i, 64, 128);
	struct kloop_stats stats;

	kt_turn(loop, 0);
	for (int round = 0; round < 50; round++) {
		init_ops(100);
		for (int i = 0; i < 100; i++)
			KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
		while (done_count < 100)
			kt_turn(loop, round % 2 ? KLOOP_FOREVER : 0);
	}
	kt_turn_for(loop, 5);
	stats = kt_stats(loop);
	/* At most one of the loop's own, the wait for wake-ups. */
	ck_assert_uint_ge(stats.submissions, 5000);
	ck_assert_uint_le(stats.submissions, 5001);
	ck_assert_uint_eq(stats.completions, 5000);
	kt_loop_free(loop);
}
END_TEST

/* ---- a close is not lost ---------------------------------------------- */

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

START_TEST(close_happens_in_any_case)
{
	for (int turned = 0; turned < 2; turned++) {
		for (int cancelled = 0; cancelled < 2; cancelled++) {
			struct kloop_loop *loop = sized(_i, 2, 4);
			int fds[8];

			if (turned)
				kt_turn(loop, 0);
			init_ops(8);
			for (int i = 0; i < 8; i++) {
				fds[i] = fcntl(1, F_DUPFD_CLOEXEC, 500);
				ck_assert_int_ge(fds[i], 500);
				KT_ACCEPTED(kloop_op_close(loop, &ops[i].op, fds[i]));
				if (cancelled)
					ck_assert_int_eq(kloop_op_cancel(&ops[i].op), 0);
			}
			kt_loop_free(loop);
			check_all_done(8);
			for (int i = 0; i < 8; i++)
				ck_assert_msg(!is_open(fds[i]), "still open; turned %d, cancelled %d",
					      turned, cancelled);
		}
	}
}
END_TEST

/* What is submitted early takes effect early, and completes with the turn all the same. */
START_TEST(submit_before_the_turn)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;
	char buffer[4];
	int pipe_fds[2];

	ck_assert_int_eq(kloop_loop_submit(loop), 0);
	kt_turn(loop, 0);
	ck_assert_int_eq(pipe(pipe_fds), 0);
	kt_op_init(&op);
	ck_assert_int_eq(KT_SUBMIT(kloop_op_write(loop, &op.op, pipe_fds[1], "abcd", 4, UINT64_MAX)),
			 0);
	ck_assert_int_eq(kloop_loop_submit(loop), 0);
	ck_assert_int_eq(read(pipe_fds[0], buffer, sizeof(buffer)), 4);
	ck_assert_int_eq(op.completions, 0);
	kt_turn(loop, 0);
	ck_assert_int_eq(op.completions, 1);
	ck_assert_int_eq(op.result, 4);
	ck_assert_int_eq(kloop_loop_submit(NULL), -EINVAL);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	kt_loop_free(loop);
}
END_TEST

static Suite *queue_suite(void)
{
	Suite *suite = suite_create("queue");
	TCase *full = kt_case(suite, "submission queue", 30);
	TCase *overflow = kt_case(suite, "completion queue", 30);

	tcase_add_loop_test(full, thousands_through_four_entries, 0, KT_RUNGS);
	tcase_add_loop_test(full, thousands_before_the_first_turn, 0, KT_RUNGS);
	tcase_add_loop_test(full, order_is_kept_when_full, 0, KT_RUNGS);
	tcase_add_loop_test(full, cancel_what_waits_outside_the_queue, 0, KT_RUNGS);
	tcase_add_loop_test(full, callbacks_overfill_the_queue, 0, KT_RUNGS);
	tcase_add_loop_test(full, free_with_a_full_queue, 0, KT_RUNGS);
	kt_add_sleeping_test(full, a_full_queue_loses_no_wake, 0, KT_RUNGS);
	tcase_add_test(full, submit_before_the_turn);
	tcase_add_loop_test(full, close_happens_in_any_case, 0, KT_RUNGS);

	tcase_add_loop_test(overflow, many_events_at_once, 0, KT_RUNGS);
	tcase_add_loop_test(overflow, waits_see_what_overflowed, 0, KT_RUNGS);
	tcase_add_loop_test(overflow, every_submission_counts_once, 0, KT_RUNGS);
	return suite;
}

int main(void)
{
	return kt_main(queue_suite());
}
