/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Wake-ups and calls from other threads. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define THREADS 4
#define POSTS 10000

/* ---- wake ------------------------------------------------------------- */

START_TEST(a_wake_before_the_wait_is_not_lost)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	uint64_t start = kloop_now();

	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(kloop_loop_wake(loop), 0);
		kt_turn(loop, KLOOP_FOREVER);
	}
	ck_assert_uint_lt(kloop_now() - start, KT_PATIENCE_MS * KT_MS);
	/* Many are one: the second wait is not cut short by them. */
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(kloop_loop_wake(loop), 0);
	kt_turn(loop, KLOOP_FOREVER);
	start = kloop_now();
	kt_turn(loop, 20 * KT_MS);
	ck_assert_uint_ge(kloop_now() - start, 20 * KT_MS);
	/* The loop was awake each time: none of them cost a system call. */
	ck_assert_uint_eq(KT_STAT(loop, wakes), 0);
	kt_loop_free(loop);
}
END_TEST

static void *wake_after_a_while(void *data)
{
	kt_sleep_ms(20);
	ck_assert_int_eq(kloop_loop_wake(data), 0);
	return NULL;
}

START_TEST(a_wake_ends_the_wait)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);

	for (int i = 0; i < 5; i++) {
		pthread_t thread = kt_thread(wake_after_a_while, loop);

		ck_assert_int_eq(kt_turn(loop, KLOOP_FOREVER), 0);
		kt_join(thread);
	}
	kt_loop_free(loop);
}
END_TEST

static struct kloop_loop *handler_loop;
static volatile sig_atomic_t handled;

static void wake_in_handler(int number)
{
	int saved = errno;

	(void)number;
	errno = 77;
	handled += kloop_loop_wake(handler_loop) == 0;
	handled += errno != 77; /* the handler's errno is left alone */
	errno = saved;
}

START_TEST(wakes_from_a_signal_handler)
{
	struct sigaction action = { .sa_handler = wake_in_handler, .sa_flags = SA_RESTART };
	struct itimerval interval = { { 0, 2000 }, { 0, 2000 } };
	int turns = 0;

	handler_loop = kt_loop_new(NULL);
	ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
	while (handled < 100) {
		kt_turn(handler_loop, KLOOP_FOREVER);
		turns++;
	}
	memset(&interval, 0, sizeof(interval));
	ck_assert_int_eq(setitimer(ITIMER_REAL, &interval, NULL), 0);
	ck_assert_int_ge(turns, 10);
	kt_loop_free(handler_loop);
}
END_TEST

/* ---- posts ------------------------------------------------------------ */

struct numbered {
	struct kloop_call call; /* first, so that a call is its number */
	int thread;
	int number;
};

struct crowd {
	struct kloop_loop *loop;
	struct numbered *calls;
	int thread;
};

static struct numbered all_calls[THREADS][POSTS];
static int next_number[THREADS];
static int arrived;
static pthread_t home;

static void arrive(struct kloop_call *call)
{
	struct numbered *numbered = (struct numbered *)call;

	ck_assert(pthread_equal(pthread_self(), home));
	ck_assert_int_eq(numbered->number, next_number[numbered->thread]);
	next_number[numbered->thread]++;
	arrived++;
	/* The memory is ours again. */
	memset(call, 0xdd, sizeof(*call));
}

static void *post_many(void *data)
{
	struct crowd *crowd = data;
	uint64_t state = 1 + (uint64_t)crowd->thread;

	for (int i = 0; i < POSTS; i++) {
		struct numbered *numbered = &all_calls[crowd->thread][i];

		numbered->call.call = arrive;
		numbered->thread = crowd->thread;
		numbered->number = i;
		ck_assert_int_eq(kloop_loop_post(crowd->loop, &numbered->call), 0);
		/* Pauses, so that the loop falls asleep in between. */
		if (kt_random(&state) % 512 == 0)
			kt_sleep_ms(1);
	}
	return NULL;
}

START_TEST(all_posts_arrive_in_order)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct crowd crowds[THREADS];
	pthread_t threads[THREADS];

	home = pthread_self();
	arrived = 0;
	memset(next_number, 0, sizeof(next_number));
	for (int i = 0; i < THREADS; i++) {
		crowds[i] = (struct crowd){ .loop = loop, .thread = i };
		threads[i] = kt_thread(post_many, &crowds[i]);
	}
	kt_turn_until(loop, &arrived, THREADS * POSTS);
	for (int i = 0; i < THREADS; i++) {
		kt_join(threads[i]);
		ck_assert_int_eq(next_number[i], POSTS);
	}
	kt_turn_for(loop, 5);
	ck_assert_int_eq(arrived, THREADS * POSTS);
	/* Wakes are merged: far fewer system calls than posts. */
	ck_assert_uint_lt(KT_STAT(loop, wakes), THREADS * POSTS);
	kt_loop_free(loop);
}
END_TEST

struct chain {
	struct kloop_call call;
	struct kloop_loop *loop;
	int left;
	int called;
};

static void post_again(struct kloop_call *call)
{
	struct chain *chain = (struct chain *)call;

	chain->called++;
	if (--chain->left > 0)
		ck_assert_int_eq(kloop_loop_post(chain->loop, call), 0);
}

START_TEST(a_call_that_posts_itself_waits_a_turn)
{
	struct chain chain = { .call.call = post_again, .left = 10 };

	chain.loop = kt_loop_new(NULL);
	ck_assert_int_eq(kloop_loop_post(chain.loop, &chain.call), 0);
	for (int i = 1; i <= 10; i++) {
		ck_assert_int_eq(kt_turn(chain.loop, KLOOP_FOREVER), 1);
		ck_assert_int_eq(chain.called, i);
	}
	ck_assert_int_eq(kt_turn(chain.loop, 0), 0);
	kt_loop_free(chain.loop);
}
END_TEST

/* Completions first, then timers, then posted calls. */
static char order[4];
static int order_length;

static void note_op(struct kt_op *op)
{
	(void)op;
	order[order_length++] = 'o';
}

static void note_timer(struct kt_timer *timer)
{
	(void)timer;
	order[order_length++] = 't';
}

static void note_call(struct kloop_call *call)
{
	(void)call;
	order[order_length++] = 'c';
}

START_TEST(a_turn_has_an_order)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_call call = { .call = note_call };
	struct kt_timer timer;
	struct kt_op op;

	kt_op_init(&op);
	op.then = note_op;
	kt_timer_init(&timer);
	timer.then = note_timer;
	ck_assert_int_eq(kloop_loop_post(loop, &call), 0);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, 0), 0);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	kt_turn_until(loop, &order_length, 3);
	ck_assert_str_eq(order, "otc");
	kt_loop_free(loop);
}
END_TEST

struct ending {
	struct kloop_call call;
	struct kloop_loop *loop;
	struct kloop_call refused;
	int called;
};

static void post_at_the_end(struct kloop_call *call)
{
	struct ending *ending = (struct ending *)call;

	ending->called++;
	ck_assert_int_eq(kloop_loop_post(ending->loop, &ending->refused), -ESTALE);
}

static void must_not_come(struct kloop_call *call)
{
	(void)call;
	ck_abort_msg("a refused call was called");
}

START_TEST(free_calls_what_was_posted)
{
	struct ending endings[10];
	struct kloop_loop *loop = kt_loop_new(NULL);

	for (size_t i = 0; i < KT_COUNT(endings); i++) {
		endings[i] = (struct ending){ .call.call = post_at_the_end,
					      .loop = loop,
					      .refused.call = must_not_come };
		ck_assert_int_eq(kloop_loop_post(loop, &endings[i].call), 0);
	}
	kt_loop_free(loop);
	for (size_t i = 0; i < KT_COUNT(endings); i++)
		ck_assert_int_eq(endings[i].called, 1);
}
END_TEST

START_TEST(run_waits_for_posted_calls)
{
	struct chain chain = { .call.call = post_again, .left = 5 };

	chain.loop = kt_loop_new(NULL);
	ck_assert_int_eq(kloop_loop_post(chain.loop, &chain.call), 0);
	ck_assert_int_eq(kloop_loop_run(chain.loop), 0);
	ck_assert_int_eq(chain.called, 5);
	kt_loop_free(chain.loop);
}
END_TEST

static Suite *post_suite(void)
{
	Suite *suite = suite_create("post");
	TCase *wake = kt_case(suite, "wake", 30);
	TCase *post = kt_case(suite, "post", 60);

	tcase_add_loop_test(wake, a_wake_before_the_wait_is_not_lost, 0, KT_RUNGS);
	kt_add_sleeping_test(wake, a_wake_ends_the_wait, 0, KT_RUNGS);
	kt_add_sleeping_test(wake, wakes_from_a_signal_handler, 0, 1);

	kt_add_sleeping_test(post, all_posts_arrive_in_order, 0, KT_RUNGS);
	tcase_add_test(post, a_call_that_posts_itself_waits_a_turn);
	tcase_add_test(post, a_turn_has_an_order);
	tcase_add_test(post, free_calls_what_was_posted);
	tcase_add_test(post, run_waits_for_posted_calls);
	return suite;
}

int main(void)
{
	return kt_main(post_suite());
}
