/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Suites, loops and operations for the test programs: see support.h. */
#include "support.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

/* Depth of KT_SUBMIT(): the tests of operations run on one thread each. */
static _Thread_local int submitting;

int kt_main(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

TCase *kt_case(Suite *suite, const char *name, unsigned seconds)
{
	TCase *tcase = tcase_create(name);

	/* In the virtual machine CK_TIMEOUT_MULTIPLIER does it. */
	tcase_set_timeout(tcase, getenv("KLOOP_TEST_VM") ? seconds : 3 * seconds);
	suite_add_tcase(suite, tcase);
	return tcase;
}

bool kt_under_valgrind(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload && strstr(preload, "vgpreload");
}

int kt_patience_ms(void)
{
	return getenv("KLOOP_TEST_VM") ? 80000 : 60000;
}

struct kloop_loop *kt_loop_new(const struct kloop_loop_options *options)
{
	struct kloop_loop *loop = NULL;
	int r = kloop_loop_new(options, &loop);

	ck_assert_msg(r == 0, "kloop_loop_new: %s", kloop_error_name(r));
	ck_assert_ptr_nonnull(loop);
	return loop;
}

struct kloop_loop *kt_loop_without(uint64_t features)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	kloop_loop_options_set_without(options, features);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

struct kloop_loop *kt_loop_on_rung(int rung)
{
	static const uint64_t deferred = KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN;
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	if (rung == 1)
		kloop_loop_options_set_without(options, deferred);
	else if (rung == 2)
		kloop_loop_options_set_without(options, deferred | KLOOP_FEATURE_COOP_TASKRUN |
								KLOOP_FEATURE_TASKRUN_FLAG |
								KLOOP_FEATURE_REGISTERED_RING |
								KLOOP_FEATURE_CQE_SKIP |
								KLOOP_FEATURE_MKDIRAT |
								KLOOP_FEATURE_FTRUNCATE);
	else if (rung == 3)
		ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 20, -1), 0);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

struct kloop_loop *kt_loop_sized(unsigned submissions, unsigned completions)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, submissions, completions), 0);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

void kt_loop_free(struct kloop_loop *loop)
{
	ck_assert_int_eq(kloop_loop_free(loop), 0);
}

int kt_turn(struct kloop_loop *loop, uint64_t timeout_ns)
{
	int r = kloop_loop_turn(loop, timeout_ns);

	if (r == -EINTR)
		return 0;
	ck_assert_msg(r >= 0, "kloop_loop_turn: %s", kloop_error_name(r));
	return r;
}

uint64_t kt_slice(uint64_t timeout_ns)
{
	if (!kt_under_valgrind() || timeout_ns < 5 * KT_MS)
		return timeout_ns;
	sched_yield();
	return 5 * KT_MS;
}

void kt_turn_until(struct kloop_loop *loop, const int *value, int target)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;

	while (*value < target) {
		uint64_t now = kloop_now();

		ck_assert_msg(now < end, "still %d, not %d, after %d ms", *value, target,
			      KT_PATIENCE_MS);
		kt_turn(loop, kt_slice(end - now));
	}
}

static void count_call(struct kloop_call *call)
{
	(*((struct kt_counted_call *)call)->called)++;
}

void kt_counted_call_init(struct kt_counted_call *counted, int *called)
{
	memset(counted, 0, sizeof(*counted));
	counted->call.call = count_call;
	counted->called = called;
}

void kt_turn_for(struct kloop_loop *loop, unsigned milliseconds)
{
	uint64_t end = kloop_now() + milliseconds * KT_MS;
	uint64_t now = kloop_now();

	/* Twice at least: a busy machine may take all of the time away. */
	for (int i = 0; i < 2 || now < end; i++) {
		kt_turn(loop, now < end ? end - now : 0);
		now = kloop_now();
	}
}

struct kloop_stats kt_stats(const struct kloop_loop *loop)
{
	struct kloop_stats stats;

	ck_assert_int_eq(kloop_loop_get_stats(loop, &stats, sizeof(stats)), 0);
	return stats;
}

static void op_complete(struct kloop_op *base, int32_t result, uint32_t flags)
{
	struct kt_op *op = (struct kt_op *)base;

	ck_assert_msg(submitting == 0, "a completion inside a submitting call");
	ck_assert_msg(op->last == 0, "a completion after the last one");
	op->completions++;
	op->result = result;
	op->flags = flags;
	if (!(flags & KLOOP_OP_MORE)) {
		op->last++;
		ck_assert(!kloop_op_is_active(base));
	} else {
		ck_assert(kloop_op_is_active(base));
	}
	if (op->then)
		op->then(op);
}

void kt_op_init(struct kt_op *op)
{
	memset(op, 0, sizeof(*op));
	kloop_op_init(&op->op, op_complete);
}

void kt_submit_begin(void)
{
	submitting++;
}

int kt_submit_end(int result)
{
	submitting--;
	return result;
}

int32_t kt_op_wait(struct kloop_loop *loop, struct kt_op *op)
{
	kt_turn_until(loop, &op->last, 1);
	return op->result;
}

static void timer_expire(struct kloop_timer *base)
{
	struct kt_timer *timer = (struct kt_timer *)base;

	ck_assert(!kloop_timer_is_active(base));
	timer->fired++;
	if (timer->then)
		timer->then(timer);
}

void kt_timer_init(struct kt_timer *timer)
{
	memset(timer, 0, sizeof(*timer));
	kloop_timer_init(&timer->timer, timer_expire);
}

void kt_sleep_ms(unsigned milliseconds)
{
	struct timespec left = { milliseconds / 1000, (milliseconds % 1000) * 1000000L };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

uint32_t kt_random(uint64_t *state)
{
	/* xorshift64*: the upper half is good enough for any test. */
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (uint32_t)((*state * UINT64_C(2685821657736338717)) >> 32);
}
