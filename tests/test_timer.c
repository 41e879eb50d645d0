/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Timers: order, edges, and a long random history against a model. */
#include "support.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#define MANY 5000

static int fired_order[64];
static int fired_count;

static void note_order(struct kt_timer *timer)
{
	fired_order[fired_count++] = (int)(intptr_t)timer->data;
}

static void start(struct kloop_loop *loop, struct kt_timer *timer, uint64_t deadline_ns)
{
	ck_assert_int_eq(KT_SUBMIT(kloop_timer_start(loop, &timer->timer, deadline_ns)), 0);
	ck_assert(kloop_timer_is_active(&timer->timer));
}

/* A set of timers that write down the order in which they expire. */
static void init_ordered(struct kt_timer *timers, int count)
{
	fired_count = 0;
	for (int i = 0; i < count; i++) {
		kt_timer_init(&timers[i]);
		timers[i].then = note_order;
		timers[i].data = (void *)(intptr_t)i;
	}
}

START_TEST(expire_in_order_of_deadline)
{
	static const int ms[] = { 9, 3, 7, 1, 5, 8, 2, 6, 4 };
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timers[KT_COUNT(ms)];
	uint64_t base = kloop_now();

	init_ordered(timers, KT_COUNT(ms));
	for (size_t i = 0; i < KT_COUNT(ms); i++)
		start(loop, &timers[i], base + ms[i] * KT_MS);
	ck_assert_uint_eq(KT_STAT(loop, timers_active), KT_COUNT(ms));
	kt_turn_until(loop, &fired_count, KT_COUNT(ms));
	for (size_t i = 0; i < KT_COUNT(ms); i++)
		ck_assert_int_eq(ms[fired_order[i]], (int)i + 1);
	ck_assert_uint_ge(kloop_now(), base + 9 * KT_MS);
	ck_assert_uint_eq(KT_STAT(loop, timers_active), 0);
	ck_assert_uint_eq(KT_STAT(loop, timers_fired), KT_COUNT(ms));
	kt_loop_free(loop);
}
END_TEST

START_TEST(equal_deadlines_expire_in_order_of_start)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	uint64_t deadline = kloop_now() + KT_MS;
	struct kt_timer timers[64];

	init_ordered(timers, 64);
	for (int i = 0; i < 64; i++)
		start(loop, &timers[i], deadline);
	/* One that is started again goes to the end of the queue. */
	start(loop, &timers[0], deadline);
	/* One that is taken out of the middle leaves the order of the others. */
	kloop_timer_stop(&timers[20].timer);
	kt_turn_until(loop, &fired_count, 63);
	for (int i = 0, expected = 1; i < 62; i++, expected++) {
		expected += expected == 20;
		ck_assert_int_eq(fired_order[i], expected);
	}
	ck_assert_int_eq(fired_order[62], 0);
	ck_assert_int_eq(timers[20].fired, 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(the_past_is_the_next_turn)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer;
	uint64_t before = KT_STAT(loop, enters);

	kt_timer_init(&timer);
	start(loop, &timer, 0);
	ck_assert_int_eq(timer.fired, 0);
	ck_assert_int_eq(kt_turn(loop, KLOOP_FOREVER), 1);
	ck_assert_int_eq(timer.fired, 1);
	start(loop, &timer, kloop_now());
	ck_assert_int_eq(kt_turn(loop, 0), 1);
	/* Nothing to wait for: no call into the kernel. */
	ck_assert_uint_eq(KT_STAT(loop, enters), before);
	kt_loop_free(loop);
}
END_TEST

START_TEST(never_is_never)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer never, far, near;

	kt_timer_init(&never);
	kt_timer_init(&far);
	kt_timer_init(&near);
	start(loop, &never, UINT64_MAX);
	start(loop, &far, UINT64_MAX - 1);
	ck_assert_int_eq(kt_turn(loop, 5 * KT_MS), 0);
	start(loop, &near, kloop_now() + KT_MS);
	ck_assert_int_eq(kt_turn(loop, KLOOP_FOREVER), 1);
	ck_assert_int_eq(near.fired, 1);
	ck_assert_int_eq(never.fired + far.fired, 0);
	ck_assert(kloop_timer_is_active(&never.timer));

	/* A wake ends a wait that only the far ones bound. */
	ck_assert_int_eq(kloop_loop_wake(loop), 0);
	ck_assert_int_eq(kt_turn(loop, KLOOP_FOREVER), 0);
	kt_loop_free(loop);
	ck_assert(!kloop_timer_is_active(&never.timer));
}
END_TEST

START_TEST(a_stopped_timer_is_not_called)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer, other;

	kt_timer_init(&timer);
	kt_timer_init(&other);
	kloop_timer_stop(&timer.timer);
	start(loop, &timer, kloop_now());
	start(loop, &other, kloop_now());
	kloop_timer_stop(&timer.timer);
	ck_assert(!kloop_timer_is_active(&timer.timer));
	kloop_timer_stop(&timer.timer);
	kt_turn_until(loop, &other.fired, 1);
	kt_turn_for(loop, 2);
	ck_assert_int_eq(timer.fired, 0);
	kloop_timer_stop(NULL);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_moved_timer_fires_once)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	uint64_t base = kloop_now();
	struct kt_timer timer;

	kt_timer_init(&timer);
	start(loop, &timer, base + 10000 * KT_MS);
	start(loop, &timer, base + KT_MS); /* earlier */
	start(loop, &timer, base + 30 * KT_MS); /* later */
	ck_assert_uint_eq(KT_STAT(loop, timers_active), 1);
	kt_turn_until(loop, &timer.fired, 1);
	ck_assert_uint_ge(kloop_now(), base + 30 * KT_MS);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(timer.fired, 1);
	kt_loop_free(loop);
}
END_TEST

START_TEST(refusals)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_loop *other = kt_loop_new(NULL);
	struct kt_timer timer;

	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_timer_start(loop, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_timer_start(NULL, &timer.timer, 0), -EINVAL);
	start(loop, &timer, kloop_now() + 1000 * KT_MS);
	ck_assert_int_eq(kloop_timer_start(other, &timer.timer, 0), -EBUSY);
	kt_turn(other, 0);
	ck_assert_int_eq(timer.fired, 0);
	kloop_timer_stop(&timer.timer);
	ck_assert_int_eq(kloop_timer_start(other, &timer.timer, 0), 0);
	kt_turn_until(other, &timer.fired, 1);
	timer.timer.expire = NULL;
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, 0), -EINVAL);
	kt_loop_free(loop);
	kt_loop_free(other);
}
END_TEST

/* ---- from inside of callbacks ----------------------------------------- */

static void restart_in_the_past(struct kt_timer *timer)
{
	if (timer->fired < 1000)
		start(timer->timer.loop, timer, 0);
}

START_TEST(restarting_does_not_hold_the_turn)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timer;

	kt_timer_init(&timer);
	timer.then = restart_in_the_past;
	start(loop, &timer, 0);
	for (int i = 1; i <= 10; i++) {
		ck_assert_int_eq(kt_turn(loop, KLOOP_FOREVER), 1);
		ck_assert_int_eq(timer.fired, i);
	}
	kt_turn_until(loop, &timer.fired, 1000);
	kt_loop_free(loop);
}
END_TEST

START_TEST(restarting_starves_nobody)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer greedy, modest;

	/* The greedy one is always the nearest of the heap. */
	kt_timer_init(&greedy);
	kt_timer_init(&modest);
	greedy.then = restart_in_the_past;
	start(loop, &greedy, 0);
	start(loop, &modest, kloop_now());
	for (int i = 0; i < 10; i++)
		kt_turn(loop, 0);
	ck_assert_int_eq(modest.fired, 1);
	ck_assert_int_eq(greedy.fired, 10);
	kt_loop_free(loop);
}
END_TEST

static void stop_the_other(struct kt_timer *timer)
{
	struct kt_timer *other = timer->data;

	kloop_timer_stop(&other->timer);
}

START_TEST(one_stops_another_that_is_due)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer first, second;

	kt_timer_init(&first);
	kt_timer_init(&second);
	first.then = stop_the_other;
	first.data = &second;
	start(loop, &first, 1);
	start(loop, &second, 2);
	ck_assert_int_eq(kt_turn(loop, 0), 1);
	kt_turn_for(loop, 2);
	ck_assert_int_eq(first.fired, 1);
	ck_assert_int_eq(second.fired, 0);
	kt_loop_free(loop);
}
END_TEST

static void free_itself(struct kt_timer *timer)
{
	++*(int *)timer->data;
	memset(timer, 0xdd, sizeof(*timer));
	free(timer);
}

START_TEST(a_timer_may_free_itself)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int freed = 0;

	for (int i = 0; i < 100; i++) {
		struct kt_timer *timer = malloc(sizeof(*timer));

		ck_assert_ptr_nonnull(timer);
		kt_timer_init(timer);
		timer->then = free_itself;
		timer->data = &freed;
		start(loop, timer, kloop_now() + (uint64_t)i * 10000);
	}
	kt_turn_until(loop, &freed, 100);
	kt_loop_free(loop);
}
END_TEST

/* ---- against a model -------------------------------------------------- */

/* The model: for each timer whether it is started, when it is due, and its turn in the queue. */
struct model {
	struct kloop_loop *loop;
	struct kt_timer timers[MANY];
	uint64_t deadline[MANY];
	uint64_t order[MANY];
	bool active[MANY];
	uint64_t next_order;
	size_t active_count;
	/* What expired last: nothing that expires later may come before it. */
	uint64_t last_deadline, last_order;
	long fired;
};

static struct model *model;

static void check_expiry(struct kt_timer *timer)
{
	size_t i = (size_t)(timer - model->timers);

	ck_assert(model->active[i]);
	ck_assert_uint_le(model->deadline[i], kloop_now());
	ck_assert_msg(model->deadline[i] > model->last_deadline ||
			      (model->deadline[i] == model->last_deadline &&
			       model->order[i] > model->last_order),
		      "timer %zu expired out of order", i);
	model->last_deadline = model->deadline[i];
	model->last_order = model->order[i];
	model->active[i] = false;
	model->active_count--;
	model->fired++;
}

/* Nothing that is left may be older than what was called. */
static void check_none_missed(uint64_t turn_began)
{
	/* One ck_assert() for all: each makes a system call, also where it holds. */
	for (size_t i = 0; i < MANY; i++) {
		if (kloop_timer_is_active(&model->timers[i].timer) != model->active[i] ||
		    (model->active[i] && model->deadline[i] <= turn_began))
			ck_abort_msg("timer %zu is not as the model has it", i);
	}
	ck_assert_uint_eq(KT_STAT(model->loop, timers_active), model->active_count);
}

static void model_turn(void)
{
	uint64_t began = kloop_now();

	model->last_deadline = 0;
	model->last_order = 0;
	kt_turn(model->loop, 0);
	check_none_missed(began);
}

/* Start, move or stop one timer at random; deadlines are coarse, so that many are equal. */
static void model_step(uint64_t *state, uint64_t spread_ns)
{
	size_t i = kt_random(state) % MANY;

	if (kt_random(state) % 3 == 0) {
		kloop_timer_stop(&model->timers[i].timer);
		model->active_count -= model->active[i];
		model->active[i] = false;
		return;
	}
	model->deadline[i] = kloop_now() / 4096 * 4096 + kt_random(state) % spread_ns / 4096 * 4096;
	start(model->loop, &model->timers[i], model->deadline[i]);
	model->order[i] = ++model->next_order;
	model->active_count += !model->active[i];
	model->active[i] = true;
}

START_TEST(a_long_history_like_the_model)
{
	uint64_t state = 0x9e3779b97f4a7c15u + (uint64_t)_i;
	int steps;

	model = calloc(1, sizeof(*model));
	ck_assert_ptr_nonnull(model);
	model->loop = kt_loop_new(NULL);
	for (size_t i = 0; i < MANY; i++) {
		kt_timer_init(&model->timers[i]);
		model->timers[i].then = check_expiry;
	}
	/* The model looks at every timer for every expiry: under valgrind that takes half an hour. */
	steps = kt_under_valgrind() ? 6000 : 100000;
	for (int step = 1; step <= steps; step++) {
		model_step(&state, 20 * KT_MS);
		if (step % 500 == 0)
			model_turn();
	}
	while (model->active_count != 0)
		model_turn();
	ck_assert_int_gt(model->fired, 1000);
	ck_assert_uint_eq(KT_STAT(model->loop, timers_fired), (uint64_t)model->fired);
	kt_loop_free(model->loop);
	free(model);
}
END_TEST

START_TEST(timers_cost_no_call)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_timer timers[64];
	uint64_t base;
	struct kloop_stats before, after;

	/* Waits bounded by timers: one enter each, nothing submitted for them. */
	init_ordered(timers, 64);
	kt_turn(loop, 1);
	before = kt_stats(loop);
	base = kloop_now();
	for (int i = 0; i < 64; i++)
		start(loop, &timers[i], base + (uint64_t)i * 200000);
	kt_turn_until(loop, &fired_count, 64);
	after = kt_stats(loop);
	ck_assert_uint_eq(after.submissions, before.submissions);
	ck_assert_uint_le(after.enters - before.enters, after.turns - before.turns);
	ck_assert_uint_le(after.turns - before.turns, 64 + 5);
	kt_loop_free(loop);
}
END_TEST

static int sleeps;

static void note_sleep(void *data)
{
	(void)data;
	sleeps++;
}

START_TEST(a_sleep_serves_all_within_the_slack)
{
	int slack = prctl(PR_GET_TIMERSLACK);
	struct kloop_loop *loop;
	struct kt_timer timers[2];
	uint64_t base;

	ck_assert_int_gt(slack, 0);
	ck_assert_int_eq(prctl(PR_SET_TIMERSLACK, 100 * KT_MS), 0);
	loop = kt_loop_new(NULL);
	kloop_loop_set_before_wait(loop, note_sleep, NULL);
	/* The first turn takes the loop over, and the slack with it. */
	ck_assert_int_ge(kloop_loop_turn(loop, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_TIMERSLACK, (unsigned long)slack), 0);
	sleeps = 0;
	do {
		init_ordered(timers, 2);
		base = kloop_now();
		start(loop, &timers[0], base + 20 * KT_MS);
		start(loop, &timers[1], base + 100 * KT_MS);
		ck_assert_int_ge(kloop_loop_turn(loop, KLOOP_FOREVER), 0);
		kloop_timer_stop(&timers[0].timer);
		kloop_timer_stop(&timers[1].timer);
		/* On a machine that was busy just now, the first one was due before there was a sleep. */
	} while (sleeps == 0);
	ck_assert_int_eq(sleeps, 1);
	ck_assert_int_eq(fired_count, 2);
	ck_assert_int_eq(fired_order[0], 0);
	ck_assert_uint_ge(kloop_now(), base + 100 * KT_MS);
	kt_loop_free(loop);
}
END_TEST

static Suite *timer_suite(void)
{
	Suite *suite = suite_create("timer");
	TCase *order = kt_case(suite, "order", 20);
	TCase *callbacks = kt_case(suite, "callbacks", 20);
	TCase *history = kt_case(suite, "history", 120);

	tcase_add_test(order, expire_in_order_of_deadline);
	tcase_add_test(order, equal_deadlines_expire_in_order_of_start);
	tcase_add_test(order, the_past_is_the_next_turn);
	tcase_add_test(order, never_is_never);
	tcase_add_test(order, a_stopped_timer_is_not_called);
	tcase_add_test(order, a_moved_timer_fires_once);
	tcase_add_test(order, refusals);
	tcase_add_test(order, timers_cost_no_call);
	tcase_add_test(order, a_sleep_serves_all_within_the_slack);

	tcase_add_test(callbacks, restarting_does_not_hold_the_turn);
	tcase_add_test(callbacks, restarting_starves_nobody);
	tcase_add_test(callbacks, one_stops_another_that_is_due);
	tcase_add_test(callbacks, a_timer_may_free_itself);

	tcase_add_loop_test(history, a_long_history_like_the_model, 0, 3);
	return suite;
}

int main(void)
{
	return kt_main(timer_suite());
}
