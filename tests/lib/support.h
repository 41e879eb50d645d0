/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What all test programs share: loops that are bounded in time, operations
 * that watch their own promises, descriptors, forked children, threads.
 *
 * Failures end the test through Check, except inside kt_fork(), where
 * KT_CHILD_CHECK() ends the child with a message.
 */
#ifndef KT_SUPPORT_H
#define KT_SUPPORT_H

#include <kloop.h>

#include <check.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#define KT_MS UINT64_C(1000000) /* nanoseconds */
/* What a healthy machine never needs, valgrind included; an emulated one is slower. */
#define KT_PATIENCE_MS kt_patience_ms()
int kt_patience_ms(void);

/* Number of elements of an array. */
#define KT_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- suites ----------------------------------------------------------- */

/*
 * Run a suite and return the exit status for main().
 *
 * The summary goes to standard output. Check's own variables (CK_FORK,
 * CK_RUN_CASE, CK_VERBOSITY) are honoured.
 */
int kt_main(Suite *suite);

/* A case of this name, bounded to so many seconds; a busy machine has thrice that. */
TCase *kt_case(Suite *suite, const char *name, unsigned seconds);

/*
 * Add a test in which a loop sleeps until another thread or a signal handler
 * acts. valgrind lets neither run while a thread is inside io_uring_enter(2),
 * so there, and only there, such a test is left out, and a line says so.
 */
#define kt_add_sleeping_test(tcase, test, begin, end)                                    \
	do {                                                                                   \
		if (kt_under_valgrind())                                                           \
			printf("left out under valgrind: %s\n", #test);                               \
		else                                                                               \
			tcase_add_loop_test(tcase, test, begin, end);                                  \
	} while (0)
bool kt_under_valgrind(void);

/*
 * Add a test in which signals come thick and fast. The thread sanitizer runs a
 * handler later than the signal, all signals blocked meanwhile; where another one
 * comes during that, it keeps them blocked for good (GCC 12: a thread that sleeps
 * in io_uring_enter(2), SigBlk of /proc with all bits, its signal in SigPnd; kLoop
 * itself blocks none). There, and only there, it is left out, and a line says so.
 */
#ifdef __SANITIZE_THREAD__
#define kt_add_storm_test(tcase, test) \
	printf("left out under the thread sanitizer: %s (%p)\n", #test, (const void *)(test))
#else
#define kt_add_storm_test(tcase, test) kt_add_sleeping_test(tcase, test, 0, 1)
#endif

/* ---- loops ------------------------------------------------------------ */

/* A loop, or the end of the test. options may be NULL. */
struct kloop_loop *kt_loop_new(const struct kloop_loop_options *options);

/* A loop that must do without some features. */
struct kloop_loop *kt_loop_without(uint64_t features);

/*
 * A loop on one rung of the set-up ladder: 0 the best that the kernel has,
 * 1 COOP_TASKRUN without newer features, 2 no flag, no registered
 * descriptor and no small feature, 3 SQPOLL.
 */
#define KT_RUNGS 4
struct kloop_loop *kt_loop_on_rung(int rung);

/* A loop with queues of this size. */
struct kloop_loop *kt_loop_sized(unsigned submissions, unsigned completions);

/* Free it; it must answer 0. */
void kt_loop_free(struct kloop_loop *loop);

/* One turn that must not fail; -EINTR counts as a turn without callbacks. */
int kt_turn(struct kloop_loop *loop, uint64_t timeout_ns);

/*
 * How long one turn may wait that waits for what another thread does: under a
 * valgrind that lets no thread run during io_uring_enter(2), not long at once.
 */
uint64_t kt_slice(uint64_t timeout_ns);

/* Turns until *value is at least target; the test fails after KT_PATIENCE_MS. */
void kt_turn_until(struct kloop_loop *loop, const int *value, int target);

/* A call to post that counts in *called. */
struct kt_counted_call {
	struct kloop_call call; /* first */
	int *called;
};

void kt_counted_call_init(struct kt_counted_call *counted, int *called);

/* Turns for so long, whatever happens. */
void kt_turn_for(struct kloop_loop *loop, unsigned milliseconds);

/* All counters. */
struct kloop_stats kt_stats(const struct kloop_loop *loop);

/* The value of one counter: KT_STAT(loop, enters). */
#define KT_STAT(loop, field) (kt_stats(loop).field)

/* ---- operations ------------------------------------------------------- */

/* An operation that counts its completions and checks the promises. */
struct kt_op {
	struct kloop_op op;
	int completions;  /* how often it was called */
	int last;         /* of these, without KLOOP_OP_MORE */
	int32_t result;   /* of the newest */
	uint32_t flags;
	void (*then)(struct kt_op *op); /* called at the end of a completion, may be NULL */
	void *data;
};

void kt_op_init(struct kt_op *op);

/*
 * Evaluate a submission. A completion that comes from inside of it fails the
 * test: promise 1.
 */
#define KT_SUBMIT(call) (kt_submit_begin(), kt_submit_end(call))
void kt_submit_begin(void);
int kt_submit_end(int result);

/* Submit, and fail the test if that is refused. */
#define KT_ACCEPTED(call) ck_assert_int_eq(KT_SUBMIT(call), 0)

/* Turns until the operation is complete; returns its result. */
int32_t kt_op_wait(struct kloop_loop *loop, struct kt_op *op);

/* ---- timers ----------------------------------------------------------- */

/* A timer that counts. */
struct kt_timer {
	struct kloop_timer timer;
	int fired;
	void (*then)(struct kt_timer *timer);
	void *data;
};

void kt_timer_init(struct kt_timer *timer);

/* ---- descriptors ------------------------------------------------------ */

/* How many descriptors this process has open. */
int kt_fd_count(void);

/* A pipe, or a pair of connected sockets: [0] reads. All blocking, close-on-exec. */
void kt_pipe(int fds[2]);
void kt_socketpair(int fds[2]);

/* A TCP socket that listens on loopback; *ret_port in host order. */
int kt_listen(int backlog, uint16_t *ret_port);

/* One whose backlog is full, by fillers, so that a connect waits. */
int kt_full_listener(uint16_t *ret_port, int fillers[4]);

/* A connected TCP pair over loopback. */
void kt_tcp_pair(int fds[2]);

void kt_close(int fd);

/*
 * Is pidfd_open(2) there? All kernels that kLoop runs on have it, older
 * versions of valgrind refuse it.
 */
bool kt_has_pidfd(void);

/* ---- processes and threads -------------------------------------------- */

/*
 * Run a function in a forked child and return waitpid(2)'s status; a child
 * that takes longer than KT_PATIENCE_MS is killed. The function's value is the
 * exit status; the child leaves by _exit(2).
 */
int kt_fork(int (*function)(void *data), void *data);

/* kt_fork() whose function must return 0. */
void kt_fork_ok(int (*function)(void *data), void *data);

/* Inside kt_fork(): end the child unless the condition holds. */
#define KT_CHILD_CHECK(condition)                                                          \
	do {                                                                                   \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: in a child: %s\n", __FILE__, __LINE__, #condition);    \
			_exit(99);                                                                     \
		}                                                                                  \
	} while (0)

/* Start a thread, end it; both must succeed. */
pthread_t kt_thread(void *(*function)(void *data), void *data);
void kt_join(pthread_t thread);

/* Run a function on another thread and wait for it. */
void kt_on_thread(void *(*function)(void *data), void *data);

/* Sleep outside the loop. */
void kt_sleep_ms(unsigned milliseconds);

/* A small reproducible generator; state must not be 0. */
uint32_t kt_random(uint64_t *state);

#endif
