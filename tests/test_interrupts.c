/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A loop whose thread is interrupted all the time: by signals whose handlers do
 * nothing, with SA_RESTART and without, and by SIGSTOP and SIGCONT, which end
 * waits of the kernel as a debugger does. Whatever it was about to do: each
 * operation completes once, each timer fires once and not too early, each call
 * comes, and the loop goes on.
 */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RESTARTED, INTERRUPTED, STOPPED, KINDS };

#define PAUSE_US 300

struct pester {
	atomic_int *over; /* shared with a child */
	pthread_t thread, target;
	pid_t child;
	int kind;
	struct sigaction former;
};

static atomic_int handled;

static void on_signal(int number)
{
	(void)number;
	atomic_fetch_add(&handled, 1);
}

static void *send_signals(void *data)
{
	struct pester *pester = data;

	while (!atomic_load(pester->over)) {
		pthread_kill(pester->target, SIGUSR1);
		usleep(PAUSE_US);
	}
	return NULL;
}

/* Every stop is followed by its end; a process that is no longer the parent is left alone. */
static void stop_and_go(const struct pester *pester, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!atomic_load(pester->over) && getppid() == parent) {
		kill(parent, SIGSTOP);
		usleep(PAUSE_US);
		kill(parent, SIGCONT);
		usleep(3 * PAUSE_US);
	}
	_exit(0);
}

static void pester_start(struct pester *pester, int kind)
{
	struct sigaction action = { .sa_handler = on_signal,
				    .sa_flags = kind == RESTARTED ? SA_RESTART : 0 };
	pid_t parent = getpid();

	memset(pester, 0, sizeof(*pester));
	pester->kind = kind;
	pester->target = pthread_self();
	pester->over = mmap(NULL, sizeof(*pester->over), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(pester->over, MAP_FAILED);
	atomic_store(&handled, 0);
	if (kind == STOPPED) {
		pester->child = fork();
		ck_assert_int_ge(pester->child, 0);
		if (pester->child == 0)
			stop_and_go(pester, parent);
		return;
	}
	ck_assert_int_eq(sigaction(SIGUSR1, &action, &pester->former), 0);
	pester->thread = kt_thread(send_signals, pester);
	/* On a busy machine the test could be over before the thread begins. */
	for (int i = 0; atomic_load(&handled) == 0 && i < KT_PATIENCE_MS; i++)
		kt_sleep_ms(1);
}

static void pester_end(struct pester *pester)
{
	int status = -1;

	atomic_store(pester->over, 1);
	if (pester->kind == STOPPED) {
		while (waitpid(pester->child, &status, 0) < 0)
			ck_assert_int_eq(errno, EINTR);
		ck_assert_int_eq(status, 0);
	} else {
		kt_join(pester->thread);
		sigaction(SIGUSR1, &pester->former, NULL);
		ck_assert_int_gt(atomic_load(&handled), 0);
	}
	munmap(pester->over, sizeof(*pester->over));
}

/* ---- asleep, and posts ------------------------------------------------- */

#define CALLS 200

struct poster {
	struct kloop_loop *loop;
	struct kt_counted_call calls[CALLS];
	int called;
};

static void *post_all(void *data)
{
	struct poster *poster = data;

	for (int i = 0; i < CALLS; i++) {
		kt_counted_call_init(&poster->calls[i], &poster->called);
		/* Often enough the loop sleeps with nothing to wait for but this. */
		if (i % 10 == 0)
			kt_sleep_ms(1);
		ck_assert_int_eq(kloop_loop_post(poster->loop, &poster->calls[i].call), 0);
	}
	return NULL;
}

static void check_posts(struct kloop_loop *loop)
{
	static struct poster poster;
	pthread_t thread;

	memset(&poster, 0, sizeof(poster));
	poster.loop = loop;
	thread = kt_thread(post_all, &poster);
	kt_turn_until(loop, &poster.called, CALLS);
	kt_join(thread);
	kt_turn(loop, 0);
	ck_assert_int_eq(poster.called, CALLS);
}

/* ---- timers, in kloop_loop_run() ---------------------------------------- */

#define TIMERS 20

struct chain {
	struct kt_timer timer;
	struct kloop_loop *loop;
	uint64_t deadline_ns;
	int early;
};

static void next_timer(struct kt_timer *timer)
{
	struct chain *chain = timer->data;

	chain->early += kloop_now() < chain->deadline_ns;
	if (timer->fired == TIMERS)
		return;
	chain->deadline_ns = kloop_now() + KT_MS;
	ck_assert_int_eq(kloop_timer_start(chain->loop, &timer->timer, chain->deadline_ns), 0);
}

static void check_timers(struct kloop_loop *loop)
{
	struct chain chain = { .loop = loop };

	kt_timer_init(&chain.timer);
	chain.timer.then = next_timer;
	chain.timer.data = &chain;
	chain.deadline_ns = kloop_now() + KT_MS;
	ck_assert_int_eq(kloop_timer_start(loop, &chain.timer.timer, chain.deadline_ns), 0);
	/* It goes on by itself after each signal, and ends when nothing is left. */
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(chain.timer.fired, TIMERS);
	ck_assert_int_eq(chain.early, 0);
}

/* ---- operations ----------------------------------------------------------- */

#define BYTES 100

static void *write_bytes(void *data)
{
	for (int i = 0; i < BYTES; i++) {
		char byte = (char)i;
		ssize_t count;

		if (i % 5 == 0)
			kt_sleep_ms(1);
		do {
			count = write(*(int *)data, &byte, 1);
		} while (count < 0 && errno == EINTR);
		ck_assert_int_eq(count, 1);
	}
	return NULL;
}

/* Each read waits in the kernel while signals come, and takes the next byte, once. */
static void check_reads(struct kloop_loop *loop)
{
	pthread_t thread;
	struct kt_op op;
	int fds[2];
	char byte;

	kt_pipe(fds);
	thread = kt_thread(write_bytes, &fds[1]);
	for (int i = 0; i < BYTES; i++) {
		kt_op_init(&op);
		KT_ACCEPTED(kloop_op_read(loop, &op.op, fds[0], &byte, 1, UINT64_MAX));
		ck_assert_int_eq(kt_op_wait(loop, &op), 1);
		ck_assert_int_eq(op.completions, 1);
		ck_assert_int_eq(byte, (char)i);
	}
	kt_join(thread);
	kt_close(fds[0]);
	kt_close(fds[1]);
}

#define BURST 300

static int burst_done;

static void count_done(struct kt_op *op)
{
	(void)op;
	burst_done++;
}

/* Many at once, for queues that may be smaller: what overflows is not lost, nor told twice. */
static void check_burst(struct kloop_loop *loop)
{
	static struct kt_op ops[BURST];

	burst_done = 0;
	for (int i = 0; i < BURST; i++) {
		kt_op_init(&ops[i]);
		ops[i].then = count_done;
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	}
	kt_turn_until(loop, &burst_done, BURST);
	kt_turn(loop, 0);
	for (int i = 0; i < BURST; i++) {
		ck_assert_int_eq(ops[i].completions, 1);
		ck_assert_int_eq(ops[i].result, 0);
	}
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
}

static void check_all(struct kloop_loop *loop, int kind)
{
	struct pester pester;

	pester_start(&pester, kind);
	for (int round = 0; round < 3; round++) {
		check_posts(loop);
		check_timers(loop);
		check_reads(loop);
		check_burst(loop);
	}
	pester_end(&pester);
	kt_loop_free(loop);
}

START_TEST(interrupted)
{
	check_all(kt_loop_on_rung(_i / KINDS), _i % KINDS);
}
END_TEST

START_TEST(interrupted_with_full_queues)
{
	check_all(kt_loop_sized(2, 2), _i);
}
END_TEST

/* It is freed, with much in flight, while signals come. */
START_TEST(interrupted_at_the_end)
{
	static struct kt_op ops[50];
	struct kloop_loop *loop;
	struct pester pester;
	int fds[2];
	char byte;

	kt_pipe(fds);
	pester_start(&pester, _i % KINDS);
	for (int round = 0; round < 10; round++) {
		loop = kt_loop_on_rung(_i / KINDS);
		for (size_t i = 0; i < KT_COUNT(ops); i++) {
			kt_op_init(&ops[i]);
			KT_ACCEPTED(kloop_op_read(loop, &ops[i].op, fds[0], &byte, 1, UINT64_MAX));
		}
		kt_turn(loop, 0);
		kt_loop_free(loop);
		for (size_t i = 0; i < KT_COUNT(ops); i++) {
			ck_assert_int_eq(ops[i].last, 1);
			ck_assert_int_lt(ops[i].result, 0);
		}
	}
	pester_end(&pester);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("interrupts");
	TCase *tcase = kt_case(suite, "interrupts", 120);

	kt_add_sleeping_test(tcase, interrupted, 0, KT_RUNGS * KINDS);
	kt_add_sleeping_test(tcase, interrupted_with_full_queues, 0, KINDS);
	kt_add_sleeping_test(tcase, interrupted_at_the_end, 0, KT_RUNGS * KINDS);
	return kt_main(suite);
}
