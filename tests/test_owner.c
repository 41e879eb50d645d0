/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Who may use a loop: threads, take-over, forked children. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- threads ---------------------------------------------------------- */

static void *submit_from_wrong_thread(void *data)
{
	struct kloop_loop *loop = data;
	struct kt_timer timer;
	struct kt_op op;
	char byte;

	kt_op_init(&op);
	kt_timer_init(&timer);
	ck_assert_int_eq(kloop_op_nop(loop, &op.op), -EPERM);
	ck_assert_int_eq(kloop_op_read(loop, &op.op, 0, &byte, 1, UINT64_MAX), -EPERM);
	ck_assert(!kloop_op_is_active(&op.op));
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, 0), -EPERM);
	ck_assert(!kloop_timer_is_active(&timer.timer));
	return NULL;
}

START_TEST(wrong_thread_is_refused)
{
	struct kloop_loop *loop = kt_loop_new(NULL);

	kt_turn(loop, 0);
	kt_on_thread(submit_from_wrong_thread, loop);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	kt_loop_free(loop);
}
END_TEST

struct intruder {
	struct kloop_loop *loop;
	sem_t sleeping;
	int result;
};

static void tell_sleeping(void *data)
{
	struct intruder *intruder = data;

	sem_post(&intruder->sleeping);
}

static void *turn_while_inside(void *data)
{
	struct intruder *intruder = data;

	sem_wait(&intruder->sleeping);
	kt_sleep_ms(5);
	intruder->result = kloop_loop_turn(intruder->loop, 0);
	ck_assert_int_eq(kloop_loop_wake(intruder->loop), 0);
	return NULL;
}

START_TEST(no_turn_while_another_is_inside)
{
	struct intruder intruder = { .loop = kt_loop_new(NULL), .result = 1 };
	pthread_t thread;

	sem_init(&intruder.sleeping, 0, 0);
	kt_turn(intruder.loop, 0);
	kloop_loop_set_before_wait(intruder.loop, tell_sleeping, &intruder);
	thread = kt_thread(turn_while_inside, &intruder);
	kt_turn(intruder.loop, KT_PATIENCE_MS * KT_MS);
	kt_join(thread);
	ck_assert_int_eq(intruder.result, -EPERM);
	kt_loop_free(intruder.loop);
}
END_TEST

struct relay {
	struct kloop_loop *loop;
	struct kt_op in_flight;
	struct kt_timer timer;
	struct kloop_pool *pool;
	sem_t submitted, taken;
	int fds[2];
};

static void *relay_first(void *data)
{
	struct relay *relay = data;
	struct kt_op op;

	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_nop(relay->loop, &op.op));
	ck_assert_int_eq(kt_op_wait(relay->loop, &op), 0);
	return NULL;
}

START_TEST(first_turn_makes_the_owner)
{
	struct relay relay = { .loop = kt_loop_new(NULL) };
	struct kt_op op;

	/* Made here and never turned here: another thread must turn before it may submit. */
	kt_op_init(&op);
	kt_on_thread(submit_from_wrong_thread, relay.loop);
	KT_ACCEPTED(kloop_op_nop(relay.loop, &op.op));
	ck_assert_int_eq(kt_op_wait(relay.loop, &op), 0);
	kt_loop_free(relay.loop);
}
END_TEST

static void *relay_turn_then_use(void *data)
{
	struct relay *relay = data;

	kt_turn(relay->loop, 0);
	return relay_first(data);
}

START_TEST(made_here_turned_there)
{
	struct relay relay = { .loop = kt_loop_new(NULL) };

	kt_on_thread(relay_turn_then_use, &relay);
	kt_loop_free(relay.loop);
}
END_TEST

static void *relay_leave_in_flight(void *data)
{
	struct relay *relay = data;

	relay_turn_then_use(relay);
	kt_op_init(&relay->in_flight);
	KT_ACCEPTED(kloop_op_poll(relay->loop, &relay->in_flight.op, relay->fds[0], POLLIN));
	kt_turn(relay->loop, 0);
	return NULL;
}

/* A took it, ended with an operation in flight; this thread goes on with the loop. */
static void take_over(struct kloop_loop *loop)
{
	struct relay relay = { .loop = loop };
	struct kt_op op;

	kt_pipe(relay.fds);
	kt_on_thread(relay_leave_in_flight, &relay);
	kt_timer_init(&relay.timer);
	kt_turn(loop, 0);
	ck_assert_int_eq(kt_op_wait(loop, &relay.in_flight), -ECANCELED);

	/* Here everything works now: operations, timers, wakes. */
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	ck_assert_int_eq(kloop_timer_start(loop, &relay.timer.timer, kloop_now() + KT_MS), 0);
	kt_turn_until(loop, &relay.timer.fired, 1);
	ck_assert_int_eq(kloop_loop_wake(loop), 0);
	kt_turn(loop, KT_PATIENCE_MS * KT_MS);
	kt_on_thread(submit_from_wrong_thread, loop);
	kt_close(relay.fds[0]);
	kt_close(relay.fds[1]);
}

START_TEST(a_thread_takes_over)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int before = kt_fd_count();

	for (int round = 0; round < 3; round++)
		take_over(loop);
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_thread_takes_over_below)
{
	struct kloop_loop *loop = kt_loop_without(KLOOP_FEATURE_SINGLE_ISSUER |
						  KLOOP_FEATURE_DEFER_TASKRUN |
						  KLOOP_FEATURE_REGISTERED_RING);

	take_over(loop);
	kt_loop_free(loop);
}
END_TEST

START_TEST(timers_survive_a_take_over)
{
	struct relay relay = { .loop = kt_loop_new(NULL) };

	kt_timer_init(&relay.timer);
	ck_assert_int_eq(kloop_timer_start(relay.loop, &relay.timer.timer, kloop_now() + 20 * KT_MS), 0);
	kt_on_thread(relay_turn_then_use, &relay);
	kt_turn_until(relay.loop, &relay.timer.fired, 1);
	kt_loop_free(relay.loop);
}
END_TEST

/*
 * The new ring is refused: what is submitted meanwhile waits for one, or for the
 * loop's end; and the next attempt may succeed.
 */
START_TEST(a_take_over_may_be_tried_again)
{
	bool ends = _i >= KT_RUNGS;
	struct relay relay = { .loop = kt_loop_on_rung(_i % KT_RUNGS) };
	struct kt_op nop, receive;

	kt_socketpair(relay.fds);
	kt_on_thread(relay_leave_in_flight, &relay);
	ck_assert_int_eq(setenv("KLOOP_IO_URING", "0", 1), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(kloop_loop_turn(relay.loop, 0), KLOOP_ERROR_RING_OFF);
		ck_assert_int_eq(kloop_loop_adopt(relay.loop), KLOOP_ERROR_RING_OFF);
		ck_assert_int_eq(kloop_loop_submit(relay.loop), 0);
	}
	kt_op_init(&nop);
	kt_op_init(&receive);
	KT_ACCEPTED(kloop_op_nop(relay.loop, &nop.op));
	ck_assert_int_eq(kloop_pool_new(relay.loop, 4, 256, &relay.pool), 0);
	KT_ACCEPTED(kloop_op_recv_multishot(relay.loop, &receive.op, relay.fds[0], relay.pool));
	ck_assert(kloop_loop_is_ready(relay.loop));
	ck_assert_int_eq(unsetenv("KLOOP_IO_URING"), 0);
	if (!ends) {
		ck_assert_int_eq(kt_op_wait(relay.loop, &relay.in_flight), -ECANCELED);
		ck_assert_int_eq(kt_op_wait(relay.loop, &nop), 0);
		ck_assert_int_eq(write(relay.fds[1], "abc", 3), 3);
		kt_turn_until(relay.loop, &receive.completions, 1);
		ck_assert_int_eq(receive.result, 3);
		ck_assert_uint_ne(receive.flags & KLOOP_OP_MORE, 0);
	}
	kt_loop_free(relay.loop);
	ck_assert_int_eq(relay.in_flight.last, 1);
	ck_assert_int_eq(nop.last, 1);
	ck_assert_int_eq(receive.last, 1);
	ck_assert_int_eq(receive.result, -ECANCELED);
	if (ends)
		ck_assert_int_eq(nop.result, -ECANCELED);
	kt_close(relay.fds[0]);
	kt_close(relay.fds[1]);
}
END_TEST

static void *receive_there(void *data)
{
	struct relay *relay = data;

	kt_turn(relay->loop, 0);
	kt_op_init(&relay->in_flight);
	KT_ACCEPTED(kloop_op_recv_multishot(relay->loop, &relay->in_flight.op, relay->fds[0],
					    relay->pool));
	kt_turn(relay->loop, 0);
	sem_post(&relay->submitted);
	sem_wait(&relay->taken);
	return NULL;
}

/*
 * The old ring must not take bytes once the loop has a new owner, neither while
 * the former thread still lives nor after it.
 */
START_TEST(a_taken_over_receive_loses_nothing)
{
	struct relay relay = { .loop = kt_loop_on_rung(_i) };
	pthread_t thread;
	struct kt_op op;
	void *buffer;
	unsigned id;

	kt_socketpair(relay.fds);
	sem_init(&relay.submitted, 0, 0);
	sem_init(&relay.taken, 0, 0);
	ck_assert_int_eq(kloop_pool_new(relay.loop, 4, 256, &relay.pool), 0);
	thread = kt_thread(receive_there, &relay);
	sem_wait(&relay.submitted);
	ck_assert_int_eq(kloop_loop_adopt(relay.loop), 0);
	ck_assert_int_eq(write(relay.fds[1], "abc", 3), 3);
	ck_assert_int_eq(kt_op_wait(relay.loop, &relay.in_flight), -ECANCELED);
	sem_post(&relay.taken);
	kt_join(thread);

	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_recv_multishot(relay.loop, &op.op, relay.fds[0], relay.pool));
	kt_turn_until(relay.loop, &op.completions, 1);
	ck_assert_int_eq(op.result, 3);
	ck_assert_int_eq(kloop_pool_get(relay.pool, op.flags, &buffer, &id), 0);
	ck_assert_mem_eq(buffer, "abc", 3);
	kloop_pool_give(relay.pool, id);
	ck_assert_int_eq(kloop_op_cancel(&op.op), 0);
	kt_op_wait(relay.loop, &op);
	kloop_pool_free(relay.pool);
	kt_loop_free(relay.loop);
	kt_close(relay.fds[0]);
	kt_close(relay.fds[1]);
}
END_TEST

/* A turned it, and lives on or not; this thread has a loop of its own when it frees A's. */
static void *turn_and_linger(void *data)
{
	struct relay *relay = data;

	relay_turn_then_use(relay);
	sem_post(&relay->submitted);
	sem_wait(&relay->taken);
	return NULL;
}

/*
 * A thread's registered descriptors are numbers of its own table: the number of the
 * ring that ends here is that of another ring there.
 */
START_TEST(the_ring_of_another_thread_takes_none_along)
{
	struct relay relay = { .loop = kt_loop_on_rung(_i) };
	struct kloop_loop *own = kt_loop_new(NULL);
	pthread_t thread;

	sem_init(&relay.submitted, 0, 0);
	sem_init(&relay.taken, 0, 0);
	relay_turn_then_use(&(struct relay){ .loop = own });
	thread = kt_thread(turn_and_linger, &relay);
	sem_wait(&relay.submitted);
	kt_loop_free(relay.loop);
	relay_turn_then_use(&(struct relay){ .loop = own });
	sem_post(&relay.taken);
	kt_join(thread);
	relay_turn_then_use(&(struct relay){ .loop = own });
	kt_loop_free(own);
}
END_TEST

struct taker {
	struct relay relay;
	struct kloop_listener *listener;
	int accepted, closed;
};

static void count_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct taker *taker = user;

	(void)listener;
	close(fd);
	taker->accepted++;
}

static void count_close(struct kloop_listener *listener, void *user)
{
	struct taker *taker = user;

	(void)listener;
	taker->closed++;
}

static void *listen_there(void *data)
{
	static const struct kloop_listener_handlers handlers = {
		.size = sizeof(handlers),
		.on_accept = count_accept,
		.on_close = count_close,
	};
	struct taker *taker = data;
	struct relay *relay = &taker->relay;

	kt_turn(relay->loop, 0);
	ck_assert_int_eq(kloop_listener_new(relay->loop, relay->fds[0], 0, &handlers, taker,
					    &taker->listener),
			 0);
	ck_assert_int_eq(kloop_loop_submit(relay->loop), 0);
	sem_post(&relay->submitted);
	sem_wait(&relay->taken);
	return NULL;
}

/* lives: the thread does until it is told not to. */
static pthread_t listen_on_thread(struct taker *taker, bool lives)
{
	pthread_t thread;

	sem_init(&taker->relay.submitted, 0, 0);
	sem_init(&taker->relay.taken, 0, !lives);
	thread = kt_thread(listen_there, taker);
	sem_wait(&taker->relay.submitted);
	return thread;
}

static int connect_to(uint16_t port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	ck_assert_int_eq(connect(fd, &address.u.any, address.length), 0);
	return fd;
}

/* The accept of the old ring must not take anybody along, while its thread lives and after it. */
START_TEST(a_taken_over_listener_loses_nobody)
{
	struct taker taker = { .relay.loop = kt_loop_on_rung(_i / 2) };
	bool lives = _i % 2;
	pthread_t thread;
	uint16_t port;
	int fd;

	taker.relay.fds[0] = kt_listen(16, &port);
	thread = listen_on_thread(&taker, lives);
	if (!lives)
		kt_join(thread);
	kt_turn(taker.relay.loop, 0);
	for (int i = 1; i <= 4; i++) {
		fd = connect_to(port);
		kt_turn_until(taker.relay.loop, &taker.accepted, i);
		kt_close(fd);
	}
	sem_post(&taker.relay.taken);
	if (lives)
		kt_join(thread);
	kloop_listener_close(taker.listener);
	kt_turn_until(taker.relay.loop, &taker.closed, 1);
	kt_loop_free(taker.relay.loop);
}
END_TEST

/*
 * More connections than the completion queue takes: what the kernel keeps beside it
 * only the ring's own thread could ask for. Nobody must stay without an owner.
 */
START_TEST(what_overflowed_has_an_owner)
{
	struct taker taker = { .relay.loop = kt_loop_sized(2, 2) };
	int clients[8], before = kt_fd_count();
	uint16_t port;

	taker.relay.fds[0] = kt_listen(16, &port);
	for (size_t i = 0; i < KT_COUNT(clients); i++)
		clients[i] = connect_to(port);
	kt_join(listen_on_thread(&taker, false));
	if (_i == 1) {
		kt_turn_until(taker.relay.loop, &taker.accepted, KT_COUNT(clients));
		kloop_listener_close(taker.listener);
		kt_turn_until(taker.relay.loop, &taker.closed, 1);
	}
	kt_loop_free(taker.relay.loop);
	ck_assert_int_eq(taker.closed, 1);
	for (size_t i = 0; i < KT_COUNT(clients); i++)
		kt_close(clients[i]);
	/* The ring's own descriptors went as well: two of them. */
	ck_assert_int_eq(kt_fd_count(), before - 2);
}
END_TEST

struct leftovers {
	struct kloop_loop *loop;
	struct kt_op poll, close;
	int fds[2], spare;
};

/* Ends with a completion that no turn has taken, and with a close that none has submitted. */
static void *leave_leftovers(void *data)
{
	struct leftovers *left = data;

	kt_turn(left->loop, 0);
	KT_ACCEPTED(kloop_op_poll(left->loop, &left->poll.op, left->fds[0], POLLIN));
	ck_assert_int_eq(write(left->fds[1], "x", 1), 1);
	ck_assert_int_eq(kloop_loop_submit(left->loop), 0);
	/* A ring of less than Linux 5.19, or with SQPOLL, completes a moment later. */
	while (!kloop_loop_is_ready(left->loop))
		sched_yield();
	KT_ACCEPTED(kloop_op_close(left->loop, &left->close.op, left->spare));
	return NULL;
}

static void check_leftovers(struct leftovers *left)
{
	ck_assert_int_eq(left->poll.completions, 1);
	ck_assert_int_eq(left->poll.result, POLLIN);
	ck_assert_int_eq(left->close.completions, 1);
	ck_assert_int_eq(fcntl(left->spare, F_GETFD), -1);
}

static void make_leftovers(struct leftovers *left, struct kloop_loop *loop)
{
	left->loop = loop;
	kt_op_init(&left->poll);
	kt_op_init(&left->close);
	kt_pipe(left->fds);
	left->spare = fcntl(left->fds[0], F_DUPFD_CLOEXEC, 50);
	ck_assert_int_ge(left->spare, 50);
	kt_on_thread(leave_leftovers, left);
}

START_TEST(a_taken_over_loop_delivers_what_was_done)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct leftovers left;

	make_leftovers(&left, loop);
	kt_turn(loop, 0);
	kt_turn_until(loop, &left.close.completions, 1);
	check_leftovers(&left);
	kt_loop_free(loop);
	kt_close(left.fds[0]);
	kt_close(left.fds[1]);
}
END_TEST

START_TEST(a_loop_freed_elsewhere_delivers_what_was_done)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct leftovers left;

	make_leftovers(&left, loop);
	kt_loop_free(loop);
	check_leftovers(&left);
	kt_close(left.fds[0]);
	kt_close(left.fds[1]);
}
END_TEST

static void *free_there(void *data)
{
	kt_loop_free(data);
	return NULL;
}

START_TEST(freed_by_another_thread)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int before = kt_fd_count();
	struct kt_op op;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], POLLIN));
	kt_turn(loop, 0);
	kt_on_thread(free_there, loop);
	ck_assert_int_eq(op.last, 1);
	ck_assert_int_eq(op.result, -ECANCELED);
	kt_close(fds[0]);
	kt_close(fds[1]);
	ck_assert_int_lt(kt_fd_count(), before);
}
END_TEST

/* The thread that used the loop is gone, and nobody turns it before the free. */
START_TEST(freed_after_its_thread_ended)
{
	struct relay relay = { .loop = kt_loop_new(NULL) };

	kt_pipe(relay.fds);
	kt_on_thread(relay_leave_in_flight, &relay);
	kt_loop_free(relay.loop);
	ck_assert_int_eq(relay.in_flight.last, 1);
	ck_assert_int_eq(relay.in_flight.result, -ECANCELED);
	kt_close(relay.fds[0]);
	kt_close(relay.fds[1]);
}
END_TEST

/* ---- fork ------------------------------------------------------------- */

struct family {
	struct kloop_loop *loop;
	struct kt_op *op;
	struct kt_timer *timer;
	int *wake_fd;
	bool frees;
};

static void never_called(struct kloop_call *call)
{
	(void)call;
	_exit(98);
}

static int misuse_in_child(void *data)
{
	static struct kloop_call call = { .call = never_called };
	struct family *family = data;
	struct kloop_loop *loop = family->loop;
	struct kt_timer timer;
	struct kt_op op;

	kt_op_init(&op);
	kt_timer_init(&timer);
	KT_CHILD_CHECK(kloop_loop_turn(loop, 0) == -ECHILD);
	KT_CHILD_CHECK(kloop_loop_run(loop) == -ECHILD);
	KT_CHILD_CHECK(kloop_loop_wake(loop) == -ECHILD);
	KT_CHILD_CHECK(kloop_loop_post(loop, &call) == -ECHILD);
	KT_CHILD_CHECK(kloop_op_nop(loop, &op.op) == -ECHILD);
	KT_CHILD_CHECK(kloop_op_cancel(&family->op->op) == -ECHILD);
	KT_CHILD_CHECK(kloop_timer_start(loop, &timer.timer, 0) == -ECHILD);
	KT_CHILD_CHECK(family->op->completions == 0);
	if (family->frees) {
		KT_CHILD_CHECK(kloop_loop_free(loop) == 0);
		KT_CHILD_CHECK(family->op->last == 1 && family->op->result == -ECANCELED);
		KT_CHILD_CHECK(family->timer->fired == 0);
	}
	return 0;
}

static void fork_with_loop(struct kloop_loop *loop, bool frees)
{
	struct family family = { .loop = loop, .frees = frees };
	struct kt_timer timer;
	struct kt_op op, later;
	char byte = 0;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	kt_op_init(&later);
	kt_timer_init(&timer);
	family.op = &op;
	family.timer = &timer;
	KT_ACCEPTED(kloop_op_read(loop, &op.op, fds[0], &byte, 1, UINT64_MAX));
	kt_turn(loop, 0);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + 20 * KT_MS), 0);
	/* One that waits for submission must not leave from the child either. */
	KT_ACCEPTED(kloop_op_nop(loop, &later.op));
	kt_fork_ok(misuse_in_child, &family);

	/* The parent goes on as if nothing had been. */
	ck_assert_int_eq(op.completions, 0);
	ck_assert_int_eq(kt_op_wait(loop, &later), 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(loop, &op), 1);
	ck_assert_int_eq(byte, 'x');
	kt_turn_until(loop, &timer.fired, 1);
	ck_assert_int_eq(kloop_loop_wake(loop), 0);
	kt_turn(loop, KT_PATIENCE_MS * KT_MS);
	kt_close(fds[0]);
	kt_close(fds[1]);
}

START_TEST(a_child_cannot_use_it)
{
	struct kloop_loop *loop = kt_loop_new(NULL);

	fork_with_loop(loop, false);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_child_frees_it)
{
	struct kloop_loop *loop = kt_loop_new(NULL);

	for (int round = 0; round < 5; round++)
		fork_with_loop(loop, true);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_child_frees_it_sqpoll)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 5, -1), 0);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	fork_with_loop(loop, true);
	kt_loop_free(loop);
}
END_TEST

/* frees: before its own loop is made, or while that is in use. */
static int own_loop_in_child(void *data)
{
	struct kloop_loop *loop = NULL;
	struct family *family = data;
	struct kt_op op;

	if (family->frees)
		KT_CHILD_CHECK(kloop_loop_free(family->loop) == 0);
	KT_CHILD_CHECK(kloop_loop_new(NULL, &loop) == 0);
	KT_CHILD_CHECK(kloop_loop_turn(loop, 0) >= 0);
	if (!family->frees)
		KT_CHILD_CHECK(kloop_loop_free(family->loop) == 0);
	kt_op_init(&op);
	KT_CHILD_CHECK(kloop_op_nop(loop, &op.op) == 0);
	while (!op.last)
		KT_CHILD_CHECK(kloop_loop_turn(loop, KT_MS) >= 0);
	KT_CHILD_CHECK(kloop_loop_free(loop) == 0);
	return 0;
}

START_TEST(a_child_makes_its_own)
{
	struct family family = { .loop = kt_loop_on_rung(_i) };

	kt_turn(family.loop, 0);
	kt_fork_ok(own_loop_in_child, &family);
	family.frees = true;
	kt_fork_ok(own_loop_in_child, &family);
	kt_turn(family.loop, KT_MS);
	kt_loop_free(family.loop);
}
END_TEST

static Suite *owner_suite(void)
{
	Suite *suite = suite_create("owner");
	TCase *threads = kt_case(suite, "threads", 30);
	TCase *forks = kt_case(suite, "fork", 30);

	tcase_add_test(threads, wrong_thread_is_refused);
	kt_add_sleeping_test(threads, no_turn_while_another_is_inside, 0, 1);
	tcase_add_test(threads, first_turn_makes_the_owner);
	tcase_add_test(threads, made_here_turned_there);
	tcase_add_test(threads, a_thread_takes_over);
	tcase_add_test(threads, a_thread_takes_over_below);
	tcase_add_loop_test(threads, a_take_over_may_be_tried_again, 0, 2 * KT_RUNGS);
	tcase_add_test(threads, timers_survive_a_take_over);
	tcase_add_loop_test(threads, a_taken_over_receive_loses_nothing, 0, KT_RUNGS);
	tcase_add_loop_test(threads, a_taken_over_loop_delivers_what_was_done, 0, KT_RUNGS);
	tcase_add_loop_test(threads, a_loop_freed_elsewhere_delivers_what_was_done, 0, KT_RUNGS);
	tcase_add_loop_test(threads, a_taken_over_listener_loses_nobody, 0, 2 * KT_RUNGS);
	tcase_add_loop_test(threads, what_overflowed_has_an_owner, 0, 2);
	tcase_add_loop_test(threads, the_ring_of_another_thread_takes_none_along, 0, KT_RUNGS);
	tcase_add_test(threads, freed_by_another_thread);
	tcase_add_test(threads, freed_after_its_thread_ended);

	tcase_add_test(forks, a_child_cannot_use_it);
	tcase_add_test(forks, a_child_frees_it);
	tcase_add_test(forks, a_child_frees_it_sqpoll);
	tcase_add_loop_test(forks, a_child_makes_its_own, 0, KT_RUNGS);
	return suite;
}

int main(void)
{
	return kt_main(owner_suite());
}
