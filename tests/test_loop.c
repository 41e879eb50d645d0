/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The loop's life and its turns: options, waiting, running, counters, misuse. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* ---- life ------------------------------------------------------------- */

START_TEST(new_and_free)
{
	int before = kt_fd_count();
	struct kloop_loop *loop = kt_loop_new(NULL);

	ck_assert_int_gt(kt_fd_count(), before);
	kt_loop_free(loop);
	ck_assert_int_eq(kt_fd_count(), before);
	ck_assert_int_eq(kloop_loop_free(NULL), 0);
	ck_assert_int_eq(kloop_loop_new(NULL, NULL), -EINVAL);
}
END_TEST

START_TEST(many_loops)
{
	struct kloop_loop *loops[64];
	int before = kt_fd_count();

	for (size_t i = 0; i < KT_COUNT(loops); i++)
		loops[i] = kt_loop_sized(8, 16);
	for (size_t i = 0; i < KT_COUNT(loops); i++) {
		struct kt_op op;

		kt_op_init(&op);
		KT_ACCEPTED(kloop_op_nop(loops[i], &op.op));
		ck_assert_int_eq(kt_op_wait(loops[i], &op), 0);
	}
	for (size_t i = 0; i < KT_COUNT(loops); i++)
		kt_loop_free(loops[i]);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

/* How many descriptors a program that this process starts inherits. */
static int inherited_descriptors(void)
{
	FILE *shell = popen("ls /proc/self/fd | wc -l", "r");
	int count = -1;

	ck_assert_ptr_nonnull(shell);
	ck_assert_int_eq(fscanf(shell, "%d", &count), 1);
	pclose(shell);
	return count;
}

START_TEST(descriptors_are_close_on_exec)
{
	int before = inherited_descriptors();
	struct kloop_loop *loop = kt_loop_new(NULL);

	ck_assert_int_eq(inherited_descriptors(), before);
	kt_loop_free(loop);
}
END_TEST

START_TEST(options_have_bounds)
{
	struct kloop_loop_options *options = NULL;

	ck_assert_int_eq(kloop_loop_options_new(NULL), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_new(&options), 0);

	ck_assert_int_eq(kloop_loop_options_set_entries(options, 0, 16), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 32769, 65536), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 64, 32), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 64, 65537), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_entries(NULL, 64, 64), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 1, 1), 0);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 32768, 65536), 0);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 5, 5), 0);

	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 10, -2), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(NULL, true, 10, -1), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, false, 0, -1), 0);

	ck_assert_int_eq(kloop_loop_options_set_spin(options, 1000 * KT_MS + 1), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_spin(NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_spin(options, 1000 * KT_MS), 0);
	ck_assert_int_eq(kloop_loop_options_set_spin(options, 0), 0);

	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 0, 4096), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 3, 4096), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 65536, 4096), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 8, 255), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 8, (1 << 20) + 1), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(NULL, 8, 4096), -EINVAL);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 1, 256), 0);
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 32768, 1 << 20), 0);

	/* What was refused above left no trace: a loop of five entries can be made. */
	ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 8, 4096), 0);
	kt_loop_free(kt_loop_new(options));
	kloop_loop_options_free(options);
	kloop_loop_options_free(NULL);
}
END_TEST

START_TEST(options_are_copied)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop;
	struct kt_op op;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	loop = kt_loop_new(options);
	memset(options, 0xee, 1);
	kloop_loop_options_free(options);
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(clock_is_monotonic)
{
	struct timespec now;
	uint64_t before = kloop_now();
	uint64_t kernel;

	clock_gettime(CLOCK_MONOTONIC, &now);
	kernel = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	ck_assert_uint_le(before, kernel);
	ck_assert_uint_le(kernel, kloop_now());
}
END_TEST

/* ---- turns ------------------------------------------------------------ */

START_TEST(idle_turns_make_no_call)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;
	struct kloop_stats before, after;
	int fds[2];

	/* Also with something in flight that is not complete. */
	kt_pipe(fds);
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	ck_assert_int_eq(kt_turn(loop, 0), 0);

	before = kt_stats(loop);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(kt_turn(loop, 0), 0);
	after = kt_stats(loop);
	ck_assert_uint_eq(after.enters, before.enters);
	ck_assert_uint_eq(after.waits, before.waits);
	ck_assert_uint_eq(after.turns, before.turns + 1000);
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(a_turn_waits_as_long_as_told)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	uint64_t start = kloop_now();
	uint64_t waits = KT_STAT(loop, waits);

	ck_assert_int_eq(kt_turn(loop, 30 * KT_MS), 0);
	ck_assert_uint_ge(kloop_now() - start, 30 * KT_MS);
	ck_assert_uint_lt(kloop_now() - start, 5000 * KT_MS);
	ck_assert_uint_ge(KT_STAT(loop, waits), waits + 1);
	/* The shortest wait there is must not become an endless one. */
	ck_assert_int_eq(kt_turn(loop, 1), 0);
	kt_loop_free(loop);
}
END_TEST

static void resubmit_nop(struct kt_op *op)
{
	int *left = op->data;

	op->last = 0;
	if (--*left > 0)
		ck_assert_int_eq(kloop_op_nop(op->op.loop, &op->op), 0);
	else
		op->last = 1;
}

START_TEST(one_enter_a_turn)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_stats before, after;
	struct kt_op op;
	int left = 1000;

	kt_op_init(&op);
	op.then = resubmit_nop;
	op.data = &left;
	before = kt_stats(loop);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	kt_op_wait(loop, &op);
	after = kt_stats(loop);
	ck_assert_int_eq(op.completions, 1000);
	/* And the loop's own, which waits for wake-ups. */
	ck_assert_uint_ge(after.submissions - before.submissions, 1000);
	ck_assert_uint_le(after.submissions - before.submissions, 1001);
	ck_assert_uint_ge(after.completions - before.completions, 1000);
	ck_assert_uint_le(after.turns - before.turns, 1001);
	ck_assert_uint_le(after.enters - before.enters, after.turns - before.turns);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_batch_is_one_enter)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_stats before, after;
	struct kt_op ops[500];

	before = kt_stats(loop);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	}
	ck_assert_uint_eq(KT_STAT(loop, enters), before.enters);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), KT_COUNT(ops));
	for (size_t i = 0; i < KT_COUNT(ops); i++)
		ck_assert_int_eq(kt_op_wait(loop, &ops[i]), 0);
	after = kt_stats(loop);
	ck_assert_uint_le(after.enters - before.enters, 2);
	ck_assert_uint_eq(after.in_flight, 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_turn_counts_its_callbacks)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op ops[3];
	struct kt_timer timer;
	int called = 0;

	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	}
	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, 0), 0);
	for (int i = 0; i < 10 && called < 4; i++)
		called += kt_turn(loop, 50 * KT_MS);
	ck_assert_int_eq(called, 4);
	ck_assert_int_eq(timer.fired, 1);
	ck_assert_int_eq(kt_turn(loop, 0), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(ready_tells_what_a_turn_finds)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;
	int fds[2];

	ck_assert(!kloop_loop_is_ready(loop));
	kt_op_init(&op);
	kt_pipe(fds);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	ck_assert(kloop_loop_is_ready(loop));
	kt_turn(loop, 0);
	ck_assert(!kloop_loop_is_ready(loop));

	/* Work that waits for this thread in the kernel is seen, within a moment. */
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	for (int i = 0; i < 1000 && !kloop_loop_is_ready(loop); i++)
		kt_sleep_ms(1);
	if (kloop_loop_get_features(loop) & KLOOP_FEATURE_TASKRUN_FLAG)
		ck_assert(kloop_loop_is_ready(loop));
	kt_turn_until(loop, &op.last, 1);
	ck_assert(!kloop_loop_is_ready(loop));
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

static void count_call(void *data)
{
	++*(int *)data;
}

START_TEST(before_wait_is_called_when_it_sleeps)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int calls = 0;

	kloop_loop_set_before_wait(loop, count_call, &calls);
	for (int i = 0; i < 10; i++)
		kt_turn(loop, 0);
	ck_assert_int_eq(calls, 0);
	kt_turn(loop, KT_MS);
	ck_assert_int_eq(calls, 1);
	kt_turn(loop, KT_MS);
	ck_assert_int_eq(calls, 2);
	kloop_loop_set_before_wait(loop, NULL, NULL);
	kt_turn(loop, KT_MS);
	ck_assert_int_eq(calls, 2);
	kt_loop_free(loop);
}
END_TEST

/* ---- run -------------------------------------------------------------- */

static void stop_loop(struct kt_timer *timer)
{
	kloop_loop_stop(timer->data);
}

START_TEST(run_ends_when_nothing_is_left)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer;
	struct kt_op op;

	ck_assert_int_eq(kloop_loop_run(loop), 0);
	kt_timer_init(&timer);
	kt_op_init(&op);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + 5 * KT_MS), 0);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(timer.fired, 1);
	ck_assert_int_eq(op.last, 1);
	kt_loop_free(loop);
}
END_TEST

struct last_end {
	struct kloop_timer timer; /* first */
	struct kloop_resolver *resolver;
};

static void close_resolver(struct kloop_timer *timer)
{
	kloop_resolver_close(((struct last_end *)timer)->resolver);
}

/* A close that is deferred to the next turn: that turn must not wait for anything more. */
START_TEST(run_ends_when_the_last_end_was_deferred)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct last_end ending;

	ck_assert_int_eq(kloop_resolver_new(loop, NULL, &ending.resolver), 0);
	if (_i) {
		kloop_timer_init(&ending.timer, close_resolver);
		ck_assert_int_eq(kloop_timer_start(loop, &ending.timer, kloop_now() + KT_MS), 0);
	} else {
		kloop_resolver_close(ending.resolver);
	}
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(stop_ends_run)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer;
	struct kt_op op;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	kt_timer_init(&timer);
	timer.then = stop_loop;
	timer.data = loop;
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	for (int round = 1; round <= 3; round++) {
		ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + KT_MS), 0);
		ck_assert_int_eq(kloop_loop_run(loop), 0);
		ck_assert_int_eq(timer.fired, round);
		ck_assert_int_eq(op.completions, 0);
	}
	kt_loop_free(loop);
	ck_assert_int_eq(op.last, 1);
	ck_assert_int_eq(op.result, -ECANCELED);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

/* ---- signals that interrupt ------------------------------------------- */

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
	(void)number;
	alarms = alarms + 1;
}

static void set_alarm(unsigned first_ms, unsigned every_ms)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval interval = {
		.it_value = { 0, first_ms * 1000 },
		.it_interval = { 0, every_ms * 1000 },
	};

	alarms = 0;
	ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
}

START_TEST(a_handler_ends_the_wait)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	uint64_t start = kloop_now();
	struct kt_op op;
	int fds[2];
	int r;

	kt_pipe(fds);
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	set_alarm(20, 0);
	r = kloop_loop_turn(loop, 10000 * KT_MS);
	ck_assert_int_eq(r, -EINTR);
	ck_assert_uint_lt(kloop_now() - start, 5000 * KT_MS);
	ck_assert_int_eq(alarms, 1);

	/* Nothing is lost: what was in flight still is, and completes. */
	ck_assert_int_eq(op.completions, 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(loop, &op), 1);
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(run_goes_on_after_a_handler)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer;

	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + 120 * KT_MS), 0);
	set_alarm(10, 10);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	set_alarm(0, 0);
	ck_assert_int_eq(timer.fired, 1);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_storm_of_handlers_loses_nothing)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;
	int left = 20000;

	kt_op_init(&op);
	op.then = resubmit_nop;
	op.data = &left;
	set_alarm(1, 1);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	kt_op_wait(loop, &op);
	set_alarm(0, 0);
	ck_assert_int_eq(op.completions, 20000);
	kt_loop_free(loop);
}
END_TEST

/* ---- misuse from callbacks -------------------------------------------- */

struct misuse {
	struct kloop_loop *loop;
	struct kloop_call call;
	int calls;
};

static void misuse_loop(struct misuse *misuse)
{
	ck_assert_int_eq(kloop_loop_turn(misuse->loop, 0), -EDEADLK);
	ck_assert_int_eq(kloop_loop_run(misuse->loop), -EDEADLK);
	ck_assert_int_eq(kloop_loop_free(misuse->loop), -EBUSY);
	misuse->calls++;
}

static void misuse_from_op(struct kt_op *op)
{
	misuse_loop(op->data);
}

static void misuse_from_timer(struct kt_timer *timer)
{
	misuse_loop(timer->data);
}

static void misuse_from_call(struct kloop_call *call)
{
	misuse_loop((struct misuse *)((char *)call - offsetof(struct misuse, call)));
}

START_TEST(callbacks_cannot_turn_or_free)
{
	struct misuse misuse = { .loop = kt_loop_new(NULL), .call = { .call = misuse_from_call } };
	struct kt_op op;
	struct kt_timer timer;

	kt_op_init(&op);
	op.then = misuse_from_op;
	op.data = &misuse;
	kt_timer_init(&timer);
	timer.then = misuse_from_timer;
	timer.data = &misuse;
	KT_ACCEPTED(kloop_op_nop(misuse.loop, &op.op));
	ck_assert_int_eq(kloop_timer_start(misuse.loop, &timer.timer, 0), 0);
	ck_assert_int_eq(kloop_loop_post(misuse.loop, &misuse.call), 0);
	kt_turn_until(misuse.loop, &misuse.calls, 3);
	kt_loop_free(misuse.loop);
}
END_TEST

/* ---- counters --------------------------------------------------------- */

START_TEST(stats_fit_every_size)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct {
		struct kloop_stats stats;
		uint64_t later[4];
	} longer;
	uint64_t guard[4];

	kt_turn(loop, 0);
	memset(&longer, 0xff, sizeof(longer));
	ck_assert_int_eq(kloop_loop_get_stats(loop, &longer.stats, sizeof(longer)), 0);
	ck_assert_uint_eq(longer.stats.turns, 1);
	for (size_t i = 0; i < KT_COUNT(longer.later); i++)
		ck_assert_uint_eq(longer.later[i], 0);

	memset(guard, 0xff, sizeof(guard));
	ck_assert_int_eq(kloop_loop_get_stats(loop, (struct kloop_stats *)guard, 16), 0);
	ck_assert_uint_eq(guard[0], 1);
	ck_assert_uint_eq(guard[2], UINT64_MAX);
	ck_assert_int_eq(kloop_loop_get_stats(loop, NULL, sizeof(longer.stats)), -EINVAL);
	ck_assert_int_eq(kloop_loop_get_stats(NULL, &longer.stats, sizeof(longer.stats)), -EINVAL);
	kt_loop_free(loop);
}
END_TEST

START_TEST(null_is_refused)
{
	struct kloop_call call = { .call = NULL };
	struct kloop_loop *loop = kt_loop_new(NULL);

	ck_assert_int_eq(kloop_loop_turn(NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_loop_run(NULL), -EINVAL);
	ck_assert_int_eq(kloop_loop_post(loop, NULL), -EINVAL);
	ck_assert_int_eq(kloop_loop_post(loop, &call), -EINVAL);
	kt_loop_free(loop);
}
END_TEST

/* ---- the end ---------------------------------------------------------- */

struct ending {
	struct kloop_loop *loop;
	struct kt_op again;
	struct kloop_call call;
	int called;
};

static void submit_at_the_end(struct kt_op *op)
{
	struct ending *ending = op->data;
	struct kt_timer timer;

	ck_assert_int_eq(op->result, -ECANCELED);
	ck_assert_int_eq(kloop_op_nop(ending->loop, &ending->again.op), -ESTALE);
	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_timer_start(ending->loop, &timer.timer, 0), -ESTALE);
	ck_assert_int_eq(kloop_loop_turn(ending->loop, 0), -ESTALE);
	ck_assert_int_eq(kloop_loop_free(ending->loop), -EBUSY);
}

static void called_at_the_end(struct kloop_call *call)
{
	struct ending *ending = (void *)((char *)call - offsetof(struct ending, call));

	ending->called++;
}

START_TEST(free_completes_what_is_in_flight)
{
	struct ending ending = { .call = { .call = called_at_the_end } };
	struct kt_op ops[100];
	struct kt_timer timer;
	int fds[2];
	int before = kt_fd_count();

	ending.loop = kt_loop_new(NULL);
	kt_pipe(fds);
	kt_op_init(&ending.again);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		ops[i].then = submit_at_the_end;
		ops[i].data = &ending;
		KT_ACCEPTED(kloop_op_poll(ending.loop, &ops[i].op, fds[0], 1));
		if (i == KT_COUNT(ops) / 2)
			kt_turn(ending.loop, 0); /* half in the kernel, half not yet */
	}
	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_timer_start(ending.loop, &timer.timer, kloop_now() + KT_MS), 0);
	ck_assert_int_eq(kloop_loop_post(ending.loop, &ending.call), 0);
	kt_loop_free(ending.loop);
	for (size_t i = 0; i < KT_COUNT(ops); i++)
		ck_assert_int_eq(ops[i].last, 1);
	ck_assert_int_eq(ending.again.completions, 0);
	ck_assert_int_eq(ending.called, 1);
	ck_assert_int_eq(timer.fired, 0);
	kt_close(fds[0]);
	kt_close(fds[1]);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

static Suite *loop_suite(void)
{
	Suite *suite = suite_create("loop");
	TCase *life = kt_case(suite, "life", 20);
	TCase *turns = kt_case(suite, "turns", 30);
	TCase *misuse = kt_case(suite, "misuse", 20);

	tcase_add_test(life, new_and_free);
	tcase_add_test(life, many_loops);
	tcase_add_test(life, descriptors_are_close_on_exec);
	tcase_add_test(life, options_have_bounds);
	tcase_add_test(life, options_are_copied);
	tcase_add_test(life, clock_is_monotonic);
	tcase_add_test(life, free_completes_what_is_in_flight);

	tcase_add_test(turns, idle_turns_make_no_call);
	tcase_add_test(turns, a_turn_waits_as_long_as_told);
	tcase_add_test(turns, one_enter_a_turn);
	tcase_add_test(turns, a_batch_is_one_enter);
	tcase_add_test(turns, a_turn_counts_its_callbacks);
	tcase_add_test(turns, ready_tells_what_a_turn_finds);
	tcase_add_test(turns, before_wait_is_called_when_it_sleeps);
	tcase_add_test(turns, run_ends_when_nothing_is_left);
	tcase_add_loop_test(turns, run_ends_when_the_last_end_was_deferred, 0, 2);
	tcase_add_test(turns, stop_ends_run);
	kt_add_sleeping_test(turns, a_handler_ends_the_wait, 0, 1);
	kt_add_sleeping_test(turns, run_goes_on_after_a_handler, 0, 1);
	tcase_add_test(turns, a_storm_of_handlers_loses_nothing);

	tcase_add_test(misuse, callbacks_cannot_turn_or_free);
	tcase_add_test(misuse, stats_fit_every_size);
	tcase_add_test(misuse, null_is_refused);
	return suite;
}

int main(void)
{
	return kt_main(loop_suite());
}
