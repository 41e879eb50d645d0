/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Memory runs out, at each single allocation in turn and for good: every
 * refusal is -ENOMEM, what was accepted still completes, nothing leaks.
 */
#include "fault.h"
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPS 200
#define TIMERS 150

/* What a scenario uses; all of it outlives the loop. */
struct world {
	struct kloop_loop *loop;
	struct kt_op ops[OPS];
	struct kt_timer timers[TIMERS];
	struct kt_op blocked[OPS];
	struct kloop_call call;
	struct kloop_pool *pool;
	struct kt_op receive;
	struct kloop_signal *signal;
	struct kloop_child *child;
	pid_t pid;
	int fds[2];
	int sockets[2];
	bool once;    /* one allocation fails: the same call succeeds when it is repeated */
	int refusals;
};

static struct world *world;
static int called, received, signalled, reaped;

/* A call that may be refused for lack of memory, and for nothing else. */
static bool accepted(int r)
{
	if (r == 0)
		return true;
	ck_assert_msg(r == -ENOMEM, "refused with %s", kloop_error_name(r));
	ck_assert_uint_gt(kt_fault_hits(), 0);
	world->refusals++;
	return false;
}

/* The same, repeated once where only one allocation fails. */
#define TRY(call) (accepted(call) || (world->once && must_succeed(call)))

static bool must_succeed(int r)
{
	ck_assert_msg(r == 0, "refused again with %s", kloop_error_name(r));
	return true;
}

static void on_call(struct kloop_call *call)
{
	(void)call;
	called++;
}

static void on_receive(struct kt_op *op)
{
	void *buffer;
	unsigned id;

	if (kloop_pool_get(world->pool, op->flags, &buffer, &id) == 0) {
		received += op->result;
		kloop_pool_give(world->pool, id);
	}
}

static void on_signal(struct kloop_signal *watcher, int number, void *data)
{
	(void)watcher;
	(void)number;
	(void)data;
	signalled++;
}

static void on_child(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	(void)watcher;
	(void)data;
	ck_assert_int_eq(pid, world->pid);
	/* Reaped, cancelled with the loop, or given up for lack of memory. */
	if (status >= 0)
		ck_assert_int_eq(WEXITSTATUS(status), 3);
	reaped++;
}

static bool make_loop(bool sqpoll)
{
	struct kloop_loop_options *options = NULL;
	bool made;

	if (!TRY(kloop_loop_options_new(&options)))
		return false;
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 2, 2), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, sqpoll, 5, -1), 0);
	made = TRY(kloop_loop_new(options, &world->loop));
	kloop_loop_options_free(options);
	return made;
}

/* More operations and timers than any first allocation holds. */
static void submit_many(void)
{
	for (int i = 0; i < OPS; i++) {
		kt_op_init(&world->ops[i]);
		kt_op_init(&world->blocked[i]);
		if (!TRY(KT_SUBMIT(kloop_op_nop(world->loop, &world->ops[i].op))))
			world->ops[i].last = -1; /* refused: nothing may come */
		if (!TRY(KT_SUBMIT(kloop_op_poll(world->loop, &world->blocked[i].op, world->fds[0], POLLIN))))
			world->blocked[i].last = -1;
	}
	for (int i = 0; i < TIMERS; i++) {
		kt_timer_init(&world->timers[i]);
		if (!TRY(kloop_timer_start(world->loop, &world->timers[i].timer,
					   kloop_now() + (uint64_t)i * 10000)))
			world->timers[i].fired = -1;
	}
}

static void make_watchers(void)
{
	world->call.call = on_call;
	ck_assert_int_eq(kloop_loop_post(world->loop, &world->call), 0);
	if (TRY(kloop_pool_new(world->loop, 4, 256, &world->pool))) {
		kt_op_init(&world->receive);
		world->receive.then = on_receive;
		if (!TRY(KT_SUBMIT(kloop_op_recv_multishot(world->loop, &world->receive.op, world->sockets[0],
						 world->pool))))
			world->receive.last = -1;
		ck_assert_int_eq(write(world->sockets[1], "abc", 3), 3);
	}
	(void)TRY(kloop_signal_new(world->loop, SIGUSR1, on_signal, NULL, &world->signal));
	if (kt_has_pidfd())
		(void)TRY(kloop_child_new(world->loop, world->pid, on_child, NULL, &world->child));
}

/* Has all that was accepted completed? Each is -1 if it was refused. */
static bool all_done(void)
{
	for (int i = 0; i < OPS; i++) {
		if (world->ops[i].last == 0 || world->blocked[i].last == 0)
			return false;
	}
	for (int i = 0; i < TIMERS; i++) {
		if (world->timers[i].fired == 0)
			return false;
	}
	if (world->pool && world->receive.last == 0 && received == 0)
		return false;
	return called && (!world->signal || signalled) && (!world->child || reaped);
}

static void take_turns(void)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;

	if (world->signal)
		raise(SIGUSR1);
	while (!all_done() && kloop_now() < end) {
		int r = kloop_loop_turn(world->loop, KT_MS);

		ck_assert_msg(r >= 0 || r == -EINTR || (r == -ENOMEM && kt_fault_hits()),
			      "a turn failed with %s", kloop_error_name(r));
	}
}

static void check_results(void)
{
	for (int i = 0; i < OPS; i++) {
		ck_assert_int_ne(world->ops[i].last, 0);
		ck_assert_int_ne(world->blocked[i].last, 0);
	}
	for (int i = 0; i < TIMERS; i++)
		ck_assert_int_ne(world->timers[i].fired, 0);
	ck_assert_int_eq(called, 1);
	if (world->pool && world->receive.last >= 0)
		ck_assert_int_eq(received, 3);
	if (world->signal)
		ck_assert_int_eq(signalled, 1);
	if (world->child)
		ck_assert_int_eq(reaped, 1);
}

static void free_world(void)
{
	kloop_signal_free(world->signal);
	if (world->pool && kloop_op_is_active(&world->receive.op)) {
		/* Its pool is still in use: end it first; without memory even that may wait. */
		while (kloop_op_cancel(&world->receive.op) == -ENOMEM)
			(void)!kloop_loop_turn(world->loop, KT_MS);
		for (int i = 0; i < 1000 && kloop_op_is_active(&world->receive.op); i++)
			(void)!kloop_loop_turn(world->loop, KT_MS);
		ck_assert(!kloop_op_is_active(&world->receive.op));
	}
	kloop_pool_free(world->pool);
	ck_assert_int_eq(kloop_loop_free(world->loop), 0);
}

/* Returns how many allocations were made to fail. */
static size_t run_scenario(size_t countdown, size_t repeat, bool sqpoll)
{
	int before = kt_fd_count();
	size_t hits;

	world = calloc(1, sizeof(*world));
	ck_assert_ptr_nonnull(world);
	world->once = repeat == 1;
	called = received = signalled = reaped = 0;
	kt_pipe(world->fds);
	kt_socketpair(world->sockets);
	world->pid = fork();
	ck_assert_int_ge(world->pid, 0);
	if (world->pid == 0)
		_exit(3);

	kt_fault_arm(countdown, repeat);
	if (make_loop(sqpoll)) {
		submit_many();
		make_watchers();
		ck_assert_int_eq(write(world->fds[1], "x", 1), 1);
		take_turns();
		free_world();
		check_results();
	}
	hits = kt_fault_hits();
	if (world->once)
		ck_assert_int_le(world->refusals, 1);
	kt_fault_arm(0, 0);
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	ck_assert_uint_eq(kt_fault_bytes(), 0);

	waitpid(world->pid, NULL, 0); /* if nobody reaped it */
	kt_close(world->fds[0]);
	kt_close(world->fds[1]);
	kt_close(world->sockets[0]);
	kt_close(world->sockets[1]);
	free(world);
	ck_assert_int_eq(kt_fd_count(), before);
	return hits;
}

START_TEST(each_single_allocation_fails)
{
	size_t countdown = 1;

	kt_fault_install();
	while (run_scenario(countdown, 1, _i == 1) > 0)
		countdown++;
	/* The sweep was one: loop, options, heaps, pool, watchers. */
	ck_assert_uint_gt(countdown, 8);
	kt_fault_remove();
}
END_TEST

START_TEST(memory_is_gone_for_good)
{
	size_t countdown = 1;

	kt_fault_install();
	while (run_scenario(countdown, 0, _i == 1) > 0)
		countdown++;
	ck_assert_uint_gt(countdown, 8);
	kt_fault_remove();
}
END_TEST

/* Cancels need entries as well: the end of a loop must not depend on memory. */
START_TEST(free_needs_no_memory)
{
	static struct kt_op ops[500];
	struct kloop_loop_options *options;
	struct kloop_loop *loop;
	int fds[2];

	kt_fault_install();
	kt_pipe(fds);
	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_entries(options, 2, 2), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, _i == 1, 5, -1), 0);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		KT_ACCEPTED(kloop_op_poll(loop, &ops[i].op, fds[0], POLLIN));
	}
	for (int i = 0; i < 200 && kloop_loop_is_ready(loop); i++)
		kt_turn(loop, KT_MS);
	kt_fault_arm(1, 0);
	kt_loop_free(loop);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		ck_assert_int_eq(ops[i].last, 1);
		ck_assert_int_eq(ops[i].result, -ECANCELED);
	}
	kt_fault_arm(0, 0);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_fault_remove();
}
END_TEST

static Suite *faults_suite(void)
{
	Suite *suite = suite_create("faults");
	TCase *sweep = kt_case(suite, "sweep", 60);

	tcase_add_loop_test(sweep, each_single_allocation_fails, 0, 2);
	tcase_add_loop_test(sweep, memory_is_gone_for_good, 0, 2);
	tcase_add_loop_test(sweep, free_needs_no_memory, 0, 2);
	return suite;
}

int main(void)
{
	return kt_main(faults_suite());
}
