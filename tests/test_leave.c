/* SPDX-License-Identifier: MulanPSL-2.0 */
/* A thread that leaves its loop to others and lives on keeps nothing of it open. */
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>

struct gone {
	struct kloop_loop *loop;
	struct kloop_pool *pool;
	struct kt_op op;
	sem_t left, end;
	int fds[2];
	int how;
};

enum { LEAVE_BY_CALL, LEAVE_BY_RUN, LEAVE_AND_RETURN, LEAVE_WAYS };

static void stop_it(struct kt_timer *timer)
{
	kloop_loop_stop(timer->data);
}

static void run_a_moment(struct kloop_loop *loop)
{
	struct kt_timer timer;

	kt_timer_init(&timer);
	timer.then = stop_it;
	timer.data = loop;
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + KT_MS), 0);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(timer.fired, 1);
}

/* Leaves the loop with an operation in flight, and lives on. */
static void *leave_and_live(void *data)
{
	struct gone *gone = data;

	kt_turn(gone->loop, 0);
	kt_op_init(&gone->op);
	KT_ACCEPTED(kloop_op_poll(gone->loop, &gone->op.op, gone->fds[0], POLLIN));
	kt_turn(gone->loop, 0);
	switch (gone->how) {
	case LEAVE_BY_RUN:
		run_a_moment(gone->loop);
		break;
	case LEAVE_AND_RETURN:
		ck_assert_int_eq(kloop_loop_leave(gone->loop), 0);
		/* So many that the ring is registered again. */
		for (int i = 0; i < 100; i++)
			kt_turn(gone->loop, KT_MS / 100);
		/* fall through */
	default:
		ck_assert_int_eq(kloop_loop_leave(gone->loop), 0);
		ck_assert_int_eq(kloop_loop_leave(gone->loop), 0);
	}
	sem_post(&gone->left);
	sem_wait(&gone->end);
	return NULL;
}

/*
 * The peer of a connection that is closed sees its end while the thread that began
 * something on it lives on, which has left the loop to another.
 */
START_TEST(a_thread_that_left_holds_no_connection)
{
	struct gone gone = { .loop = kt_loop_on_rung(_i / LEAVE_WAYS), .how = _i % LEAVE_WAYS };
	struct kt_op seen;
	struct kloop_loop *own = kt_loop_new(NULL);
	pthread_t thread;

	kt_socketpair(gone.fds);
	sem_init(&gone.left, 0, 0);
	sem_init(&gone.end, 0, 0);
	thread = kt_thread(leave_and_live, &gone);
	sem_wait(&gone.left);
	kt_turn(gone.loop, 0);
	ck_assert_int_eq(kt_op_wait(gone.loop, &gone.op), -ECANCELED);
	kt_close(gone.fds[0]);
	kt_op_init(&seen);
	KT_ACCEPTED(kloop_op_poll(own, &seen.op, gone.fds[1], POLLIN));
	ck_assert_int_ne(kt_op_wait(own, &seen) & POLLHUP, 0);
	/* Nobody told the thread to end until now. */
	sem_post(&gone.end);
	kt_join(thread);
	kt_close(gone.fds[1]);
	kt_loop_free(gone.loop);
	kt_loop_free(own);
}
END_TEST

static void leave_inside(struct kt_timer *timer)
{
	ck_assert_int_eq(kloop_loop_leave(timer->data), -EBUSY);
}

static void *leave_there(void *data)
{
	ck_assert_int_eq(kloop_loop_leave(data), -EPERM);
	return NULL;
}

START_TEST(leaving_is_for_the_owner)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kt_timer timer;
	struct kt_op op;

	ck_assert_int_eq(kloop_loop_leave(NULL), -EINVAL);
	kt_turn(loop, 0);
	kt_on_thread(leave_there, loop);
	kt_timer_init(&timer);
	timer.then = leave_inside;
	timer.data = loop;
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now()), 0);
	kt_turn_until(loop, &timer.fired, 1);
	/* It goes on as if nothing had been. */
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(kloop_loop_leave(loop), 0);
		kt_op_init(&op);
		KT_ACCEPTED(kloop_op_nop(loop, &op.op));
		ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	}
	kt_loop_free(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("leave");
	TCase *tcase = kt_case(suite, "leave", 30);

	tcase_add_loop_test(tcase, a_thread_that_left_holds_no_connection, 0, KT_RUNGS * LEAVE_WAYS);
	tcase_add_loop_test(tcase, leaving_is_for_the_owner, 0, KT_RUNGS);
	return kt_main(suite);
}
