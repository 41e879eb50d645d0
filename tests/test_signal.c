/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Signal watchers. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A watcher that counts, and may free itself. */
struct seen {
	struct kloop_signal *watcher;
	int number;
	int count;
	bool free_itself;
	struct seen *free_other;
	struct kloop_loop *loop; /* to stop */
};

static void on_signal(struct kloop_signal *watcher, int number, void *data)
{
	struct seen *seen = data;

	ck_assert_ptr_eq(watcher, seen->watcher);
	ck_assert_int_eq(number, seen->number);
	seen->count++;
	if (seen->free_other) {
		kloop_signal_free(seen->free_other->watcher);
		seen->free_other = NULL;
	}
	if (seen->free_itself)
		kloop_signal_free(watcher);
}

static void watch_with(struct kloop_loop *loop, struct seen *seen, int number, kloop_signal_fn *fn)
{
	memset(seen, 0, sizeof(*seen));
	seen->number = number;
	ck_assert_int_eq(kloop_signal_new(loop, number, fn, seen, &seen->watcher), 0);
	ck_assert_ptr_nonnull(seen->watcher);
}

static void watch(struct kloop_loop *loop, struct seen *seen, int number)
{
	watch_with(loop, seen, number, on_signal);
}

static sighandler_t current_handler(int number)
{
	struct sigaction action;

	ck_assert_int_eq(sigaction(number, NULL, &action), 0);
	return action.sa_handler;
}

START_TEST(a_signal_is_delivered)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct seen seen;

	watch(loop, &seen, SIGUSR1);
	for (int i = 1; i <= 10; i++) {
		ck_assert_int_eq(raise(SIGUSR1), 0);
		ck_assert_int_eq(seen.count, i - 1);
		kt_turn_until(loop, &seen.count, i);
	}
	kt_turn_for(loop, 5);
	ck_assert_int_eq(seen.count, 10);
	kloop_signal_free(seen.watcher);
	kt_loop_free(loop);
}
END_TEST

static void *kill_after_a_while(void *data)
{
	(void)data;
	kt_sleep_ms(20);
	ck_assert_int_eq(kill(getpid(), SIGUSR2), 0);
	return NULL;
}

START_TEST(a_signal_ends_the_wait)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	uint64_t start = kloop_now();
	struct seen seen;

	watch(loop, &seen, SIGUSR2);
	for (int i = 1; i <= 5; i++) {
		pthread_t thread = kt_thread(kill_after_a_while, NULL);

		kt_turn_until(loop, &seen.count, i);
		kt_join(thread);
	}
	ck_assert_uint_lt(kloop_now() - start, KT_PATIENCE_MS * KT_MS);
	kloop_signal_free(seen.watcher);
	kt_loop_free(loop);
}
END_TEST

static void raise_another(struct kloop_signal *watcher, int number, void *data)
{
	on_signal(watcher, number, data);
	ck_assert_int_eq(raise(SIGUSR2), 0);
}

static void stop_at_two(struct kloop_signal *watcher, int number, void *data)
{
	struct seen *seen = data;

	(void)watcher;
	ck_assert_int_eq(number, SIGUSR2);
	/* It raises itself as well. */
	if (++seen->count == 1)
		ck_assert_int_eq(raise(SIGUSR2), 0);
	else
		kloop_loop_stop(seen->loop);
}

static void give_up(struct kt_timer *timer)
{
	kloop_loop_stop(timer->data);
}

/* It comes when its watcher was asked already, and is not left to what wakes the loop next. */
START_TEST(a_signal_during_the_delivery)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct seen one, two = { .loop = loop };
	struct kt_timer guard;

	watch_with(loop, &one, SIGUSR1, raise_another);
	ck_assert_int_eq(kloop_signal_new(loop, SIGUSR2, stop_at_two, &two, &two.watcher), 0);
	kt_timer_init(&guard);
	guard.then = give_up;
	guard.data = loop;
	ck_assert_int_eq(kloop_timer_start(loop, &guard.timer,
					   kloop_now() + KT_PATIENCE_MS * KT_MS),
			 0);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(guard.fired, 0);
	ck_assert_int_eq(one.count, 1);
	ck_assert_int_eq(two.count, 2);
	kt_loop_free(loop);
}
END_TEST

START_TEST(each_watcher_gets_its_own)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen one, two, other;

	watch(loop, &one, SIGUSR1);
	watch(loop, &two, SIGUSR1);
	watch(loop, &other, SIGUSR2);
	raise(SIGUSR1);
	kt_turn_until(loop, &one.count, 1);
	ck_assert_int_eq(two.count, 1);
	ck_assert_int_eq(other.count, 0);
	raise(SIGUSR2);
	kt_turn_until(loop, &other.count, 1);
	ck_assert_int_eq(one.count + two.count, 2);

	/* What came before a watcher was made is not for it. */
	raise(SIGUSR1);
	kloop_signal_free(one.watcher);
	watch(loop, &one, SIGUSR1);
	kt_turn_until(loop, &two.count, 2);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(one.count, 0);
	kloop_signal_free(one.watcher);
	kloop_signal_free(two.watcher);
	kloop_signal_free(other.watcher);
	kt_loop_free(loop);
}
END_TEST

START_TEST(several_loops_watch_one_signal)
{
	struct kloop_loop *loops[8];
	struct seen seen[8];

	for (size_t i = 0; i < KT_COUNT(loops); i++) {
		loops[i] = kt_loop_sized(8, 8);
		watch(loops[i], &seen[i], SIGUSR1);
	}
	raise(SIGUSR1);
	for (size_t i = 0; i < KT_COUNT(loops); i++) {
		kt_turn_until(loops[i], &seen[i].count, 1);
		kloop_signal_free(seen[i].watcher);
		kt_loop_free(loops[i]);
	}
}
END_TEST

struct other_thread {
	struct kloop_loop *loop;
	struct seen seen;
};

static void *watch_there(void *data)
{
	struct other_thread *other = data;

	other->loop = kt_loop_new(NULL);
	watch(other->loop, &other->seen, SIGUSR1);
	ck_assert_int_eq(kill(getpid(), SIGUSR1), 0);
	kt_turn_until(other->loop, &other->seen.count, 1);
	kloop_signal_free(other->seen.watcher);
	kt_loop_free(other->loop);
	return NULL;
}

START_TEST(loops_of_other_threads_get_it)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct other_thread other;
	struct seen seen;
	pthread_t thread;

	watch(loop, &seen, SIGUSR1);
	thread = kt_thread(watch_there, &other);
	kt_turn_until(loop, &seen.count, 1);
	kt_join(thread);
	ck_assert_int_eq(other.seen.count, 1);
	kloop_signal_free(seen.watcher);
	kt_loop_free(loop);
}
END_TEST

static void former_handler(int number)
{
	(void)number;
}

START_TEST(the_former_handler_comes_back)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen one, two;

	ck_assert(signal(SIGUSR1, former_handler) != SIG_ERR);
	ck_assert(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
	watch(loop, &one, SIGUSR1);
	watch(loop, &two, SIGUSR1);
	ck_assert(current_handler(SIGUSR1) != former_handler);
	kloop_signal_free(one.watcher);
	ck_assert(current_handler(SIGUSR1) != former_handler);
	kloop_signal_free(two.watcher);
	ck_assert(current_handler(SIGUSR1) == former_handler);
	watch(loop, &one, SIGUSR2);
	ck_assert(current_handler(SIGUSR2) != SIG_IGN);
	kloop_signal_free(one.watcher);
	ck_assert(current_handler(SIGUSR2) == SIG_IGN);
	kloop_signal_free(NULL);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_loop_that_ends_puts_handlers_back)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen seen;

	ck_assert(signal(SIGUSR1, former_handler) != SIG_ERR);
	watch(loop, &seen, SIGUSR1);
	kt_loop_free(loop);
	ck_assert(current_handler(SIGUSR1) == former_handler);
	raise(SIGUSR1);
}
END_TEST

START_TEST(freed_from_inside)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen itself, killer, victims[2];

	/* Neighbours on both sides: one of them is called after it was freed, or none is. */
	watch(loop, &victims[0], SIGUSR1);
	watch(loop, &killer, SIGUSR1);
	watch(loop, &victims[1], SIGUSR1);
	watch(loop, &itself, SIGUSR1);
	itself.free_itself = true;
	killer.free_other = &victims[0];
	raise(SIGUSR1);
	kt_turn_until(loop, &killer.count, 1);
	ck_assert_int_eq(itself.count, 1);
	ck_assert_int_le(victims[0].count, 1);
	ck_assert_int_eq(victims[1].count, 1);
	victims[0].count = 0;
	killer.free_other = &victims[1];
	victims[1].count = 0;
	raise(SIGUSR1);
	kt_turn_until(loop, &killer.count, 2);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(itself.count, 1);
	ck_assert_int_eq(victims[0].count, 0);
	raise(SIGUSR1);
	kt_turn_until(loop, &killer.count, 3);
	ck_assert_int_le(victims[1].count, 1);
	kloop_signal_free(killer.watcher);
	kt_loop_free(loop);
}
END_TEST

static _Atomic bool storm_over;

static void *storm(void *data)
{
	(void)data;
	for (int i = 0; i < 20000; i++)
		kill(getpid(), i % 2 ? SIGUSR1 : SIGUSR2);
	atomic_store(&storm_over, true);
	return NULL;
}

START_TEST(a_storm_is_survived)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen one, two;
	pthread_t thread;

	watch(loop, &one, SIGUSR1);
	watch(loop, &two, SIGUSR2);
	thread = kt_thread(storm, NULL);
	while (!atomic_load(&storm_over))
		kt_turn(loop, 10 * KT_MS);
	kt_join(thread);
	/* One that comes after the storm is still seen: nothing got stuck. */
	kt_turn_for(loop, 5);
	one.count = 0;
	raise(SIGUSR1);
	kt_turn_until(loop, &one.count, 1);
	ck_assert_int_ge(two.count, 1);
	kloop_signal_free(one.watcher);
	kloop_signal_free(two.watcher);
	kt_loop_free(loop);
}
END_TEST

/* Watchers come and go while signals arrive. */
START_TEST(watchers_change_in_a_storm)
{
	pthread_t thread;
	struct seen keep;
	struct kloop_loop *base = kt_loop_new(NULL);

	watch(base, &keep, SIGUSR1);
	ck_assert(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
	atomic_store(&storm_over, false);
	thread = kt_thread(storm, NULL);
	while (!atomic_load(&storm_over)) {
		struct kloop_loop *loop = kt_loop_sized(4, 4);
		struct seen seen;

		watch(loop, &seen, SIGUSR1);
		kt_turn(loop, 0);
		kloop_signal_free(seen.watcher);
		kt_loop_free(loop);
	}
	kt_join(thread);
	kloop_signal_free(keep.watcher);
	kt_loop_free(base);
}
END_TEST

START_TEST(refusals)
{
	static const int bad[] = { 0, -1, 65, 1000, SIGKILL, SIGSTOP };
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_signal *watcher = NULL;

	for (size_t i = 0; i < KT_COUNT(bad); i++)
		ck_assert_int_eq(kloop_signal_new(loop, bad[i], on_signal, NULL, &watcher), -EINVAL);
	ck_assert_int_eq(kloop_signal_new(loop, SIGUSR1, NULL, NULL, &watcher), -EINVAL);
	ck_assert_int_eq(kloop_signal_new(loop, SIGUSR1, on_signal, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_signal_new(NULL, SIGUSR1, on_signal, NULL, &watcher), -EINVAL);
	ck_assert_ptr_null(watcher);
	kt_loop_free(loop);
}
END_TEST

START_TEST(at_most_64_loops)
{
	struct kloop_loop *loops[65];
	struct seen seen[64];
	struct kloop_signal *watcher = NULL;

	for (size_t i = 0; i < KT_COUNT(loops); i++)
		loops[i] = kt_loop_sized(1, 1);
	for (size_t i = 0; i < KT_COUNT(seen); i++)
		watch(loops[i], &seen[i], SIGUSR1);
	ck_assert_int_eq(kloop_signal_new(loops[64], SIGUSR1, on_signal, NULL, &watcher), -EBUSY);
	ck_assert_ptr_null(watcher);
	/* A place that gets free can be taken. */
	kloop_signal_free(seen[10].watcher);
	watch(loops[64], &seen[10], SIGUSR1);
	raise(SIGUSR1);
	kt_turn_until(loops[64], &seen[10].count, 1);
	for (size_t i = 0; i < KT_COUNT(seen); i++)
		kloop_signal_free(seen[i].watcher);
	for (size_t i = 0; i < KT_COUNT(loops); i++)
		kt_loop_free(loops[i]);
}
END_TEST

static void stop_running(struct kloop_signal *watcher, int number, void *data)
{
	(void)number;
	kloop_loop_stop(data);
	kloop_signal_free(watcher);
}

START_TEST(a_watcher_keeps_run_going)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_signal *watcher;
	pthread_t thread;

	ck_assert_int_eq(kloop_signal_new(loop, SIGUSR2, stop_running, loop, &watcher), 0);
	thread = kt_thread(kill_after_a_while, NULL);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	kt_join(thread);
	kt_loop_free(loop);
}
END_TEST

static int inherit(void *data)
{
	struct seen *seen = data;

	/* The handler is inherited; the parent's loop must not notice. */
	raise(SIGUSR1);
	KT_CHILD_CHECK(seen->count == 0);
	return 0;
}

START_TEST(a_signal_of_a_forked_child_stays_there)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen seen;

	watch(loop, &seen, SIGUSR1);
	kt_fork_ok(inherit, &seen);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(seen.count, 0);
	kloop_signal_free(seen.watcher);
	kt_loop_free(loop);
}
END_TEST

static _Atomic int enough;

static void count_in_child(struct kloop_signal *watcher, int number, void *data)
{
	int *count = data;

	(void)watcher;
	(void)number;
	++*count;
}

/*
 * Changes the table of watchers all the time. Without Check, which has a lock of its own
 * that a child would inherit. Returns: NULL, or something if a call failed.
 */
static void *change(void *data)
{
	struct kloop_signal *watcher;
	struct kloop_loop *loop;
	void *failed = NULL;

	if (kloop_loop_new(NULL, &loop) < 0)
		return data;
	while (!enough && !failed) {
		if (kloop_signal_new(loop, SIGUSR2, count_in_child, NULL, &watcher) < 0)
			failed = data;
		else
			kloop_signal_free(watcher);
	}
	if (kloop_loop_free(loop) < 0)
		failed = data;
	return failed;
}

static int watch_in_child(void *data)
{
	struct kloop_signal *watcher = NULL;
	struct kloop_loop *loop = NULL;
	int count = 0;

	(void)data;
	KT_CHILD_CHECK(kloop_loop_new(NULL, &loop) == 0);
	KT_CHILD_CHECK(kloop_signal_new(loop, SIGUSR1, count_in_child, &count, &watcher) == 0);
	raise(SIGUSR1);
	KT_CHILD_CHECK(kloop_loop_turn(loop, 0) >= 0 && count == 1);
	kloop_signal_free(watcher);
	KT_CHILD_CHECK(kloop_loop_free(loop) == 0);
	return 0;
}

START_TEST(forked_while_another_thread_changes_watchers)
{
	pthread_t threads[2];

	enough = 0;
	for (size_t i = 0; i < KT_COUNT(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, change, threads), 0);
	for (int i = 0; i < 50; i++)
		kt_fork_ok(watch_in_child, NULL);
	enough = 1;
	for (size_t i = 0; i < KT_COUNT(threads); i++) {
		void *failed = threads;

		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
}
END_TEST

static Suite *signal_suite(void)
{
	Suite *suite = suite_create("signal");
	TCase *deliver = kt_case(suite, "delivery", 30);
	TCase *life = kt_case(suite, "life", 30);

	tcase_add_loop_test(deliver, a_signal_is_delivered, 0, KT_RUNGS);
	kt_add_sleeping_test(deliver, a_signal_ends_the_wait, 0, KT_RUNGS);
	tcase_add_loop_test(deliver, a_signal_during_the_delivery, 0, KT_RUNGS);
	tcase_add_test(deliver, each_watcher_gets_its_own);
	tcase_add_test(deliver, several_loops_watch_one_signal);
	kt_add_sleeping_test(deliver, loops_of_other_threads_get_it, 0, 1);
	kt_add_storm_test(deliver, a_storm_is_survived);
	kt_add_storm_test(deliver, watchers_change_in_a_storm);
	tcase_add_test(deliver, a_signal_of_a_forked_child_stays_there);
	/* For valgrind such a child has lost what the threads held that it does not have. */
	kt_add_sleeping_test(deliver, forked_while_another_thread_changes_watchers, 0, 1);

	tcase_add_test(life, the_former_handler_comes_back);
	tcase_add_test(life, a_loop_that_ends_puts_handlers_back);
	tcase_add_test(life, freed_from_inside);
	tcase_add_test(life, refusals);
	tcase_add_test(life, at_most_64_loops);
	kt_add_sleeping_test(life, a_watcher_keeps_run_going, 0, 1);
	return suite;
}

int main(void)
{
	return kt_main(signal_suite());
}
